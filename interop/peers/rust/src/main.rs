//! rust-libp2p behind the contract of interop/peers/README.md.

mod dht;
mod gossip;
mod hex;
mod nat;
mod node;
mod operations;
mod serve;
mod web;

use std::{collections::HashMap, error::Error, process::exit, time::Duration};

use libp2p::{Multiaddr, StreamProtocol, kad, ping};
use node::Services;
use tokio::io::AsyncReadExt as _;

pub type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: listen [--stack S] [--listen ADDR] | dial ADDR [--stack S] OPERATION \
                     [options]; each with --dht ID or --gossip TOPIC";
const FLAGS: [&str; 3] = ["relay", "punch", "autonat"];
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";
const GOODBYE: Duration = Duration::from_secs(1);

/// The options of the command line; numbers are read by name.
pub struct Options {
    named: HashMap<String, String>,
    bootstrap: Vec<Multiaddr>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<(Self, Vec<String>), Failure> {
        let mut named = HashMap::new();
        let mut bootstrap = Vec::new();
        let mut words = Vec::new();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--") {
                None => words.push(arg),
                Some(name) => {
                    let (name, value) = match name.split_once('=') {
                        Some((name, value)) => (name.to_owned(), value.to_owned()),
                        None if FLAGS.contains(&name) => (name.to_owned(), String::new()),
                        None => (
                            name.to_owned(),
                            args.next().ok_or(format!("{arg} takes a value"))?,
                        ),
                    };
                    if name == "bootstrap" {
                        bootstrap.push(value.parse()?);
                    } else {
                        named.insert(name, value);
                    }
                }
            }
        }
        Ok((Self { named, bootstrap }, words))
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.named.get(name).map_or(default, String::as_str)
    }

    pub fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        self.named.get(name).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| format!("--{name} takes a whole number, not {text:?}").into())
        })
    }

    fn services(&self, mode: kad::Mode) -> Result<Services, Failure> {
        let dht = self.named.get("dht").cloned();
        Ok(Services {
            dht: dht
                .map(StreamProtocol::try_from_owned)
                .transpose()?
                .map(|id| (id, mode)),
            topic: self.named.get("gossip").cloned(),
            nat: nat::Nat {
                relay: self.named.contains_key("relay"),
                punch: self.named.contains_key("punch"),
                serve_autonat: self.named.contains_key("autonat"),
                ask_autonat: false,
            },
        })
    }
}

async fn listen(options: &Options) -> Result<(), Failure> {
    let stack = options.text("stack", "tcp/noise/yamux");
    let services = options.services(kad::Mode::Server)?;
    let mut node = node::Node::open(stack, ping::Config::new(), services.clone())?;
    let mut addrs = node.listen(options.text("listen", LOOPBACK)).await?;
    if let Some(via) = options.named.get("via") {
        addrs = nat::reserve(&mut node, via).await?;
    }
    match &services.dht {
        Some((id, _)) => {
            dht::join(&mut node, id, &options.bootstrap).await?;
            if !options.bootstrap.is_empty() {
                dht::look_around(&mut node).await?;
            }
        }
        None => {
            for address in &options.bootstrap {
                node.connect(address).await?;
            }
        }
    }
    for addr in addrs {
        println!("{addr}");
    }
    println!("ready");
    node.tell();
    let input_closed = tokio::spawn(async {
        let mut buffer = [0; 1024];
        while matches!(tokio::io::stdin().read(&mut buffer).await, Ok(n) if n > 0) {}
    });
    node.run_until(input_closed).await?;
    Ok(())
}

async fn dial(
    options: &Options,
    address: &str,
    operation: &str,
    words: &[&str],
) -> Result<(), Failure> {
    let stack = options.text("stack", "tcp/noise/yamux");
    let pings = match operation {
        "ping" | "rtt" | "reconnect" => ping::Config::new().with_interval(Duration::ZERO),
        _ => ping::Config::new(),
    };
    let mut services = options.services(kad::Mode::Client)?;
    services.nat.punch = operation == "direct";
    services.nat.ask_autonat = operation == "reachable";
    let listens = services.nat.punch || services.nat.ask_autonat;
    let mut node = node::Node::open(stack, pings, services.clone())?;
    let address: Multiaddr = address.parse()?;
    if services.dht.is_some() || services.topic.is_some() || listens {
        node.listen(options.text("listen", LOOPBACK)).await?;
    }
    let before = cpu_seconds()?;
    let mut result = match (&services.dht, &services.topic) {
        (Some((id, _)), _) => {
            dht::join(&mut node, id, &[address]).await?;
            dht::run(&mut node, operation, words).await?
        }
        (_, Some(topic)) if operation == "gossip" => {
            let (count, size) = (options.number("publish", 1)?, options.number("size", 1024)?);
            gossip::publish(&mut node, &address, topic, count, size).await?
        }
        _ => operations::run(operation, &mut node, address, options).await?,
    };
    result["cpu_seconds"] = (cpu_seconds()? - before).into();
    println!("{result}");
    // The result stands; leaving in good order is only a courtesy.
    let _ = tokio::time::timeout(GOODBYE, node.disconnect_all()).await;
    Ok(())
}

fn cpu_seconds() -> Result<f64, Failure> {
    let mut used = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: getrusage fills the whole struct when it returns 0.
    let used = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, used.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        used.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(used.ru_utime) + seconds(used.ru_stime))
}

async fn run() -> Result<(), Failure> {
    let (options, words) = Options::parse(std::env::args().skip(1))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["listen"] => listen(&options).await,
        ["dial", address, operation] => dial(&options, address, operation, &[]).await,
        ["dial", address, operation, ref words @ ..] if options.named.contains_key("dht") => {
            dial(&options, address, operation, words).await
        }
        _ => Err(USAGE.into()),
    }
}

#[tokio::main]
async fn main() {
    match run().await {
        // Not a return: a runtime that is dropped would wait for the thread that reads stdin.
        Ok(()) => exit(0),
        Err(failure) => {
            eprintln!("rust: {failure}");
            exit(1);
        }
    }
}
