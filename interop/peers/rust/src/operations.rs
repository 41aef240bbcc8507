//! What `dial` can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    future::{try_join, try_join_all},
};
use libp2p::{Multiaddr, PeerId, Stream};
use libp2p_stream::Control;
use serde_json::{Value, json};

use crate::{
    Failure, Options,
    node::Node,
    serve::{CHUNK, ECHO, PERF, write_zeros},
};

/// Prime, so that the pattern never lines up with a frame and a lost piece shows.
const PATTERN_SIZE: usize = 65521;

pub async fn run(
    operation: &str,
    node: &mut Node,
    address: Multiaddr,
    options: &Options,
) -> Result<Value, Failure> {
    let count = options.number("count", 1)?;
    match operation {
        // The ping behaviour holds one stream open, which is what `rtt` asks for.
        "ping" | "rtt" => ping(node, &address, count).await,
        "identify" => identify(node, &address).await,
        "echo" => echo(node, &address, options.number("bytes", 1 << 20)?).await,
        "perf" => {
            let (up, down) = (options.number("up", 0)?, options.number("down", 0)?);
            perf(node, &address, up, down).await
        }
        "bulk" => {
            let write = usize::try_from(options.number("write", CHUNK as u64)?)?;
            bulk(node, &address, options.number("bytes", 1 << 20)?, write).await
        }
        "reconnect" => reconnect(node, &address, count).await,
        "handshakes" => handshakes(node, &address, count).await,
        "streams" => streams(node, &address, count, options.number("concurrency", 1)?).await,
        "direct" => crate::nat::direct(node, &address).await,
        "reachable" => crate::nat::reachable(node, &address).await,
        _ => Err(format!("no operation {operation:?}").into()),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Bytes without a short period, from a multiplicative sequence of the clock's low bits.
pub fn pattern() -> Vec<u8> {
    let mut state = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| since.as_nanos() as u64 | 1);
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    let mut once: Vec<u8> = (0..PATTERN_SIZE).map(|_| next()).collect();
    once.extend_from_within(..);
    once
}

async fn send_pattern(
    mut stream: impl AsyncWrite + Unpin,
    pattern: &[u8],
    size: u64,
) -> Result<(), Failure> {
    let mut sent = 0;
    while sent < size {
        let offset = (sent % PATTERN_SIZE as u64) as usize;
        let piece = (size - sent).min(PATTERN_SIZE as u64);
        stream
            .write_all(&pattern[offset..offset + piece as usize])
            .await?;
        sent += piece;
    }
    Ok(stream.close().await?)
}

async fn check_pattern(
    mut stream: impl AsyncRead + Unpin,
    pattern: &[u8],
    size: u64,
) -> Result<(), Failure> {
    let mut buffer = vec![0; PATTERN_SIZE];
    let mut have = 0;
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            break;
        }
        let offset = (have % PATTERN_SIZE as u64) as usize;
        if buffer[..got] != pattern[offset..offset + got] {
            return Err(format!("echo differs within {got} bytes after {have}").into());
        }
        have += got as u64;
    }
    if have == size {
        Ok(())
    } else {
        Err(format!("echo gave {have} of {size} bytes").into())
    }
}

/// Sends `size` patterned bytes and checks every byte that comes back, up to the end of the stream.
async fn echoed(stream: Stream, pattern: &[u8], size: u64) -> Result<(), Failure> {
    let (reader, writer) = stream.split();
    try_join(
        send_pattern(writer, pattern, size),
        check_pattern(reader, pattern, size),
    )
    .await?;
    Ok(())
}

async fn ping(node: &mut Node, address: &Multiaddr, count: u64) -> Result<Value, Failure> {
    node.connect(address).await?;
    let mut rtts = Vec::new();
    for _ in 0..count {
        rtts.push(millis(node.next_ping().await?));
    }
    Ok(json!({ "rtt_ms": rtts }))
}

async fn identify(node: &mut Node, address: &Multiaddr) -> Result<Value, Failure> {
    node.connect(address).await?;
    let info = node.identified().await?;
    let texts = |addrs: &[Multiaddr]| addrs.iter().map(Multiaddr::to_string).collect::<Vec<_>>();
    Ok(json!({
        "peer_id": info.public_key.to_peer_id().to_string(),
        "agent": info.agent_version,
        "protocol_version": info.protocol_version,
        "protocols": info.protocols.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        "listen_addrs": texts(&info.listen_addrs),
        "observed_addr": info.observed_addr.to_string(),
        "signed_record": info.signed_peer_record.is_some(),
    }))
}

async fn echo(node: &mut Node, address: &Multiaddr, bytes: u64) -> Result<Value, Failure> {
    let peer = node.connect(address).await?;
    let mut control = node.control();
    let pattern = pattern();
    let start = Instant::now();
    node.beside(async move {
        let stream = control.open_stream(peer, ECHO).await?;
        echoed(stream, &pattern, bytes).await
    })
    .await?;
    Ok(json!({ "bytes": bytes, "ok": true, "seconds": start.elapsed().as_secs_f64() }))
}

struct Took {
    total: Duration,
    uploaded: Duration,
}

/// One round of /perf/1.0.0. The server answers only after the end of the upload, so the upload has
/// arrived when the first answer, or the end, comes.
async fn exchange(
    mut control: Control,
    peer: PeerId,
    up: u64,
    down: u64,
    chunk: usize,
) -> Result<Took, Failure> {
    let start = Instant::now();
    let mut stream = control.open_stream(peer, PERF).await?;
    stream.write_all(&down.to_be_bytes()).await?;
    write_zeros(&mut stream, up, chunk).await?;
    stream.close().await?;
    let mut buffer = vec![0; CHUNK];
    let mut received = stream.read(&mut buffer).await? as u64;
    let uploaded = start.elapsed();
    while received > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            got => received += got as u64,
        }
    }
    if received != down {
        return Err(format!("perf gave {received} of {down} bytes").into());
    }
    Ok(Took {
        total: start.elapsed(),
        uploaded,
    })
}

async fn perf(node: &mut Node, address: &Multiaddr, up: u64, down: u64) -> Result<Value, Failure> {
    let peer = node.connect(address).await?;
    let took = node
        .beside(exchange(node.control(), peer, up, down, CHUNK))
        .await?;
    Ok(json!({
        "up": up,
        "down": down,
        "seconds": took.total.as_secs_f64(),
        "upload_seconds": took.uploaded.as_secs_f64(),
        "download_seconds": (took.total - took.uploaded).as_secs_f64(),
    }))
}

async fn bulk(
    node: &mut Node,
    address: &Multiaddr,
    bytes: u64,
    write: usize,
) -> Result<Value, Failure> {
    if write == 0 {
        return Err("--write must be positive".into());
    }
    let peer = node.connect(address).await?;
    let took = node
        .beside(exchange(node.control(), peer, bytes, 0, write))
        .await?;
    Ok(json!({ "bytes": bytes, "seconds": took.total.as_secs_f64() }))
}

async fn reconnect(node: &mut Node, address: &Multiaddr, count: u64) -> Result<Value, Failure> {
    let start = Instant::now();
    for _ in 0..count {
        let peer = node.connect(address).await?;
        node.next_ping().await?;
        node.disconnect(peer).await?;
    }
    Ok(json!({ "count": count, "seconds": start.elapsed().as_secs_f64() }))
}

async fn handshakes(node: &mut Node, address: &Multiaddr, count: u64) -> Result<Value, Failure> {
    let pattern = Arc::new(pattern());
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..count {
        let dialed = Instant::now();
        let peer = node.connect(address).await?;
        latencies.push(millis(dialed.elapsed()));
        let (mut control, pattern) = (node.control(), pattern.clone());
        node.beside(async move {
            let stream = control.open_stream(peer, ECHO).await?;
            echoed(stream, &pattern, 1).await
        })
        .await?;
        node.disconnect(peer).await?;
    }
    Ok(json!({
        "count": count,
        "seconds": start.elapsed().as_secs_f64(),
        "latency_ms": latencies,
    }))
}

async fn streams(
    node: &mut Node,
    address: &Multiaddr,
    count: u64,
    concurrency: u64,
) -> Result<Value, Failure> {
    let peer = node.connect(address).await?;
    let pattern = Arc::new(pattern());
    let taken = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let workers = (0..concurrency).map(|_| {
        let (mut control, pattern, taken) = (node.control(), pattern.clone(), taken.clone());
        async move {
            while taken.fetch_add(1, Ordering::Relaxed) < count {
                let stream = control.open_stream(peer, ECHO).await?;
                echoed(stream, &pattern, 1).await?;
            }
            Ok::<(), Failure>(())
        }
    });
    let all = try_join_all(workers.collect::<Vec<_>>());
    node.beside(all).await?;
    Ok(json!({ "count": count, "seconds": start.elapsed().as_secs_f64() }))
}
