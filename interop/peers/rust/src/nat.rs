//! Relays and what lies behind them.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId, autonat, dcutr, identity::Keypair, multiaddr::Protocol, relay,
    swarm::SwarmEvent,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    Failure,
    node::{BehaviourEvent, Node},
};

const LIMIT: Duration = Duration::from_secs(40);

/// What a node does about NATs beside being a client of relays.
#[derive(Clone, Copy, Default)]
pub struct Nat {
    pub relay: bool,
    pub punch: bool,
    pub serve_autonat: bool,
    pub ask_autonat: bool,
}

impl Nat {
    pub fn relay(self, key: &Keypair) -> Option<relay::Behaviour> {
        let own = key.public().to_peer_id();
        self.relay
            .then(|| relay::Behaviour::new(own, relay::Config::default()))
    }

    pub fn dcutr(self, key: &Keypair) -> Option<dcutr::Behaviour> {
        self.punch
            .then(|| dcutr::Behaviour::new(key.public().to_peer_id()))
    }

    pub fn autonat_server(self) -> Option<autonat::v2::server::Behaviour> {
        self.serve_autonat.then(Default::default)
    }

    pub fn autonat_client(self) -> Option<autonat::v2::client::Behaviour> {
        let config = autonat::v2::client::Config::default();
        self.ask_autonat.then(|| {
            autonat::v2::client::Behaviour::new(
                rand::make_rng::<rand::rngs::StdRng>(),
                config.with_probe_interval(Duration::from_millis(200)),
            )
        })
    }
}

/// Who an address leads to in the end.
pub fn target(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Where the node is reached through the relay from now on.
pub async fn reserve(node: &mut Node, via: &str) -> Result<Vec<Multiaddr>, Failure> {
    let own = node.peer_id();
    node.listen_on(format!("{via}/p2p-circuit").parse()?)?;
    let waited = timeout(LIMIT, async {
        let mut granted = false;
        let mut listening = None;
        while !granted || listening.is_none() {
            match node.next().await {
                SwarmEvent::Behaviour(BehaviourEvent::RelayClient(
                    relay::client::Event::ReservationReqAccepted { .. },
                )) => granted = true,
                SwarmEvent::NewListenAddr { address, .. }
                    if address.iter().any(|part| part == Protocol::P2pCircuit) =>
                {
                    listening = Some(address);
                }
                SwarmEvent::ListenerClosed { reason, .. } => {
                    return Err(format!("no reservation: {reason:?}").into());
                }
                _ => {}
            }
        }
        let address = listening.ok_or("no address")?;
        Ok(vec![
            address.with_p2p(own).unwrap_or_else(|address| address),
        ])
    });
    waited.await?
}

/// Connects through a relay and waits until there is a direct connection too.
pub async fn direct(node: &mut Node, address: &Multiaddr) -> Result<Value, Failure> {
    let peer = node.connect(address).await?;
    let waited = timeout(LIMIT, async {
        loop {
            if let SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } = node.next().await
                && peer_id == peer
                && !endpoint.is_relayed()
            {
                return endpoint.get_remote_address().to_string();
            }
        }
    });
    let addr = waited
        .await
        .map_err(|_| "no direct connection came to be")?;
    Ok(json!({"direct": true, "addr": addr}))
}

/// Asks one AutoNAT v2 server about the address where it sees us.
pub async fn reachable(node: &mut Node, address: &Multiaddr) -> Result<Value, Failure> {
    node.connect(address).await?;
    let waited = timeout(LIMIT, async {
        loop {
            if let SwarmEvent::Behaviour(BehaviourEvent::AutonatClient(event)) = node.next().await {
                return event;
            }
        }
    });
    let event = waited.await.map_err(|_| "the server did not answer")?;
    let word = if event.result.is_ok() {
        "Public"
    } else {
        "Private"
    };
    Ok(
        json!({"addr": event.tested_addr.to_string(), "reachability": word, "bytes": event.bytes_sent}),
    )
}
