//! rust-libp2p behind the contract of interop/peers/README.md.

mod node;
mod operations;
mod serve;

use std::{collections::HashMap, error::Error, process::exit, time::Duration};

use libp2p::ping;
use tokio::io::AsyncReadExt as _;

pub type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str =
    "usage: listen [--stack S] [--listen ADDR] | dial ADDR [--stack S] OPERATION [options]";
const GOODBYE: Duration = Duration::from_secs(1);

/// The options of the command line; numbers are read by name.
pub struct Options(HashMap<String, String>);

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<(Self, Vec<String>), Failure> {
        let mut options = HashMap::new();
        let mut words = Vec::new();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--") {
                None => words.push(arg),
                Some(name) => {
                    let (name, value) = match name.split_once('=') {
                        Some((name, value)) => (name.to_owned(), value.to_owned()),
                        None => (
                            name.to_owned(),
                            args.next().ok_or(format!("{arg} takes a value"))?,
                        ),
                    };
                    options.insert(name, value);
                }
            }
        }
        Ok((Self(options), words))
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }

    pub fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        self.0.get(name).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| format!("--{name} takes a whole number, not {text:?}").into())
        })
    }
}

async fn listen(options: &Options) -> Result<(), Failure> {
    let stack = options.text("stack", "tcp/noise/yamux");
    let mut node = node::Node::open(stack, ping::Config::new())?;
    for addr in node
        .listen(options.text("listen", "/ip4/127.0.0.1/tcp/0"))
        .await?
    {
        println!("{addr}");
    }
    println!("ready");
    let input_closed = tokio::spawn(async {
        let mut buffer = [0; 1024];
        while matches!(tokio::io::stdin().read(&mut buffer).await, Ok(n) if n > 0) {}
    });
    node.run_until(input_closed).await?;
    Ok(())
}

async fn dial(options: &Options, address: &str, operation: &str) -> Result<(), Failure> {
    let stack = options.text("stack", "tcp/noise/yamux");
    let pings = match operation {
        "ping" | "rtt" | "reconnect" => ping::Config::new().with_interval(Duration::ZERO),
        _ => ping::Config::new(),
    };
    let mut node = node::Node::open(stack, pings)?;
    let before = cpu_seconds()?;
    let mut result = operations::run(operation, &mut node, address.parse()?, options).await?;
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
        ["dial", address, operation] => dial(&options, address, operation).await,
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
