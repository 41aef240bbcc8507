//! What `dial --dht` can do, and joining a DHT.

use std::{collections::BTreeSet, time::Duration};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, identify,
    kad::{self, GetProvidersOk, GetRecordOk, QueryId, QueryResult, Quorum, Record, RecordKey},
    multiaddr::Protocol,
    swarm::SwarmEvent,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    Failure, hex,
    node::{BehaviourEvent, Node},
};

const JOINED_WITHIN: Duration = Duration::from_secs(10);
/// Nobody answers a provider record, and one that is still on its way dies with the connection.
const LINGER: Duration = Duration::from_millis(500);

/// Connects, and waits until identify has told that each speaks the DHT's protocol.
pub async fn join(
    node: &mut Node,
    id: &StreamProtocol,
    bootstrap: &[Multiaddr],
) -> Result<(), Failure> {
    for address in bootstrap {
        let peer = node.connect(address).await?;
        timeout(JOINED_WITHIN, served(node, id, peer))
            .await
            .map_err(|_| format!("{peer} does not serve this DHT"))??;
    }
    Ok(())
}

async fn served(node: &mut Node, id: &StreamProtocol, peer: PeerId) -> Result<(), Failure> {
    loop {
        if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            peer_id,
            info,
            ..
        })) = node.next().await
            && peer_id == peer
            && info.protocols.contains(id)
        {
            return Ok(());
        }
    }
}

/// A lookup of our own id, so that others learn of us.
pub async fn look_around(node: &mut Node) -> Result<(), Failure> {
    let query = node.kad()?.bootstrap()?;
    timeout(JOINED_WITHIN, async {
        while !matches!(progress(node, query).await, (_, true)) {}
    })
    .await
    .map_err(|_| "the first lookup does not end".into())
}

/// The next result of the query, and whether it is the last.
async fn progress(node: &mut Node, query: QueryId) -> (QueryResult, bool) {
    loop {
        if let SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
            id,
            result,
            step,
            ..
        })) = node.next().await
            && id == query
        {
            return (result, step.last);
        }
    }
}

pub async fn run(node: &mut Node, operation: &str, words: &[&str]) -> Result<Value, Failure> {
    match (operation, words) {
        ("find-peer", [peer]) => find_peer(node, peer.parse()?).await,
        ("put", [key, value]) => put(node, key, hex::bytes(value)?).await,
        ("get", [key]) => get(node, key).await,
        ("provide", [key]) => provide(node, key).await,
        ("find-providers", [key]) => find_providers(node, key).await,
        _ => Err(format!("no DHT operation {operation:?} with {} words", words.len()).into()),
    }
}

fn record_key(text: &str) -> Result<RecordKey, Failure> {
    Ok(RecordKey::new(&hex::bytes(text)?))
}

/// The library returns those that answered the query; one that serves no DHT it only dials, with what it was told.
async fn find_peer(node: &mut Node, peer: PeerId) -> Result<Value, Failure> {
    let query = node.kad()?.get_closest_peers(peer);
    loop {
        match node.next().await {
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } if peer_id == peer => {
                return Ok(found(peer, vec![endpoint.get_remote_address().clone()]));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: QueryResult::GetClosestPeers(closest),
                ..
            })) if id == query => {
                let named = closest?.peers.into_iter().find(|info| info.peer_id == peer);
                return match named {
                    Some(info) => Ok(found(peer, info.addrs)),
                    None => Err("peer not found".into()),
                };
            }
            _ => {}
        }
    }
}

fn found(peer: PeerId, addrs: Vec<Multiaddr>) -> Value {
    let addrs: Vec<String> = addrs
        .into_iter()
        .map(|addr| {
            addr.into_iter()
                .filter(|part| !matches!(part, Protocol::P2p(_)))
                .collect::<Multiaddr>()
                .to_string()
        })
        .collect();
    json!({ "peer_id": peer.to_string(), "addrs": addrs })
}

async fn put(node: &mut Node, key: &str, value: Vec<u8>) -> Result<Value, Failure> {
    let record = Record::new(record_key(key)?, value);
    let query = node.kad()?.put_record(record, Quorum::One)?;
    loop {
        if let (QueryResult::PutRecord(done), true) = progress(node, query).await {
            done?;
            return Ok(json!({ "key": key, "ok": true }));
        }
    }
}

async fn get(node: &mut Node, key: &str) -> Result<Value, Failure> {
    let wanted = record_key(key)?;
    let query = node.kad()?.get_record(wanted);
    loop {
        match progress(node, query).await {
            (QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))), _) => {
                return Ok(json!({ "key": key, "value": hex::text(&found.record.value) }));
            }
            (QueryResult::GetRecord(Err(failure)), _) => return Err(failure.into()),
            (_, true) => return Err("no value".into()),
            _ => {}
        }
    }
}

async fn provide(node: &mut Node, key: &str) -> Result<Value, Failure> {
    let wanted = record_key(key)?;
    let query = node.kad()?.start_providing(wanted)?;
    loop {
        if let (QueryResult::StartProviding(done), true) = progress(node, query).await {
            done?;
            node.run_until(tokio::spawn(sleep(LINGER))).await?;
            return Ok(json!({ "key": key, "peer_id": node.peer_id().to_string(), "ok": true }));
        }
    }
}

async fn find_providers(node: &mut Node, key: &str) -> Result<Value, Failure> {
    let wanted = record_key(key)?;
    let query = node.kad()?.get_providers(wanted);
    let mut all = BTreeSet::new();
    loop {
        let (result, last) = progress(node, query).await;
        if let QueryResult::GetProviders(step) = result
            && let GetProvidersOk::FoundProviders { providers, .. } = step?
        {
            all.extend(providers.iter().map(PeerId::to_string));
        }
        if last {
            return match all.is_empty() {
                true => Err("no providers".into()),
                false => Ok(json!({ "key": key, "providers": all })),
            };
        }
    }
}
