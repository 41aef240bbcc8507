//! The swarm: stacks, limits and the services of the contract.

use std::{future::Future, time::Duration};

use futures::{
    StreamExt as _,
    future::{Either, select},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport as _, autonat,
    core::upgrade,
    dcutr, gossipsub, identify,
    identity::Keypair,
    kad,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts},
    tcp, tls, yamux,
};
use libp2p_mplex as mplex;
use libp2p_stream as stream;
use tokio::task::JoinHandle;

use crate::{
    Failure, gossip,
    nat::{self, Nat},
    serve, web,
};

/// The shipped limit closes a connection that is idle for 10 s.
const IDLE: Duration = Duration::from_secs(3600);
const NEGOTIATING: usize = 4096;
const STREAMS: usize = 4096;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: stream::Behaviour,
    serve: serve::Behaviour,
    kad: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
    gossip: Toggle<gossipsub::Behaviour>,
    relay_client: relay::client::Behaviour,
    relay: Toggle<relay::Behaviour>,
    dcutr: Toggle<dcutr::Behaviour>,
    autonat_server: Toggle<autonat::v2::server::Behaviour>,
    autonat_client: Toggle<autonat::v2::client::Behaviour>,
}

/// What a node does beside the plain services.
#[derive(Clone, Default)]
pub struct Services {
    pub dht: Option<(StreamProtocol, kad::Mode)>,
    pub topic: Option<String>,
    pub nat: Nat,
}

pub struct Node {
    swarm: Swarm<Behaviour>,
    dht: Option<StreamProtocol>,
    tells: bool,
}

fn kademlia(
    own: PeerId,
    (id, mode): (StreamProtocol, kad::Mode),
) -> kad::Behaviour<kad::store::MemoryStore> {
    let store = kad::store::MemoryStore::new(own);
    let mut kademlia = kad::Behaviour::with_config(own, store, kad::Config::new(id));
    kademlia.set_mode(Some(mode));
    kademlia
}

fn many_streams<C: Default>(set: impl Fn(&mut C)) -> impl Fn() -> C {
    move || {
        let mut config = C::default();
        set(&mut config);
        config
    }
}

impl Node {
    /// A node always pings its peers: rust-libp2p cannot only answer pings.
    pub fn open(stack: &str, ping: ping::Config, services: Services) -> Result<Self, Failure> {
        let dht = services.dht.as_ref().map(|(id, _)| id.clone());
        let behaviour = move |key: &Keypair,
                              relay_client: relay::client::Behaviour|
              -> Result<Behaviour, Failure> {
            let topic = services.topic.as_deref();
            let gossip = topic
                .map(|topic| gossip::behaviour(key, topic))
                .transpose()?;
            Ok(Behaviour {
                identify: identify::Behaviour::new(identify::Config::new(
                    "ipfs/0.1.0".into(),
                    key.public(),
                )),
                ping: ping::Behaviour::new(ping.clone()),
                streams: stream::Behaviour::new(),
                serve: serve::Behaviour,
                kad: services
                    .dht
                    .clone()
                    .map(|dht| kademlia(key.public().to_peer_id(), dht))
                    .into(),
                gossip: gossip.into(),
                relay_client,
                relay: services.nat.relay(key).into(),
                dcutr: services.nat.dcutr(key).into(),
                autonat_server: services.nat.autonat_server().into(),
                autonat_client: services.nat.autonat_client().into(),
            })
        };
        // Each stack has a type of its own, so the builder is written out once per stack.
        macro_rules! finished {
            ($builder:expr, $security:expr, $muxer:expr) => {
                $builder
                    .with_relay_client($security, $muxer)?
                    .with_behaviour(behaviour)?
                    .with_swarm_config(|config| {
                        config
                            .with_idle_connection_timeout(IDLE)
                            .with_max_negotiating_inbound_streams(NEGOTIATING)
                    })
                    .build()
            };
        }
        macro_rules! swarm {
            ($security:expr, $muxer:expr) => {
                finished!(
                    SwarmBuilder::with_new_identity().with_tokio().with_tcp(
                        tcp::Config::default().nodelay(true),
                        $security,
                        $muxer
                    )?,
                    $security,
                    $muxer
                )
            };
        }
        macro_rules! websocket {
            ($security:expr, $muxer:expr) => {
                finished!(
                    SwarmBuilder::with_new_identity()
                        .with_tokio()
                        .with_other_transport(|key| -> Result<_, Failure> {
                            let secured = $security(key)?;
                            let upgraded = web::transport()?
                                .upgrade(upgrade::Version::V1Lazy)
                                .authenticate(secured)
                                .multiplex($muxer());
                            Ok(upgraded)
                        })?,
                    $security,
                    $muxer
                )
            };
        }
        let yamux = || {
            many_streams(|config: &mut yamux::Config| {
                config.set_max_num_streams(STREAMS);
            })
        };
        // QUIC brings its own security and streams.
        macro_rules! quic {
            () => {
                finished!(
                    SwarmBuilder::with_new_identity().with_tokio().with_quic(),
                    noise::Config::new,
                    yamux()
                )
            };
        }
        let mplex = || {
            many_streams(|config: &mut mplex::Config| {
                config.set_max_num_streams(STREAMS);
                // The shipped behaviour resets a stream that is 32 frames ahead of its reader.
                config.set_max_buffer_behaviour(mplex::MaxBufferBehaviour::Block);
            })
        };
        let swarm = match stack {
            "tcp/noise/yamux" => swarm!(noise::Config::new, yamux()),
            "tcp/tls/yamux" => swarm!(tls::Config::new, yamux()),
            "tcp/noise/mplex" => swarm!(noise::Config::new, mplex()),
            "tcp/tls/mplex" => swarm!(tls::Config::new, mplex()),
            "ws/noise/yamux" | "wss/noise/yamux" => websocket!(noise::Config::new, yamux()),
            "ws/tls/yamux" | "wss/tls/yamux" => websocket!(tls::Config::new, yamux()),
            "ws/noise/mplex" | "wss/noise/mplex" => websocket!(noise::Config::new, mplex()),
            "ws/tls/mplex" | "wss/tls/mplex" => websocket!(tls::Config::new, mplex()),
            "quic-v1" => quic!(),
            _ => return Err(format!("rust has no stack {stack:?}").into()),
        };
        Ok(Self {
            swarm,
            dht,
            tells: false,
        })
    }

    pub fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    pub fn kad(&mut self) -> Result<&mut kad::Behaviour<kad::store::MemoryStore>, Failure> {
        let kad = self.swarm.behaviour_mut().kad.as_mut();
        kad.ok_or_else(|| "there is no DHT".into())
    }

    pub fn gossip(&mut self) -> Result<&mut gossipsub::Behaviour, Failure> {
        let gossip = self.swarm.behaviour_mut().gossip.as_mut();
        gossip.ok_or_else(|| "there is no gossip".into())
    }

    /// From here on, a line for every message of gossip.
    pub fn tell(&mut self) {
        self.tells = true;
    }

    /// The next event. The table learns addresses from us alone.
    pub async fn next(&mut self) -> SwarmEvent<BehaviourEvent> {
        let event = self.swarm.select_next_some().await;
        match &event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) if self
                .dht
                .as_ref()
                .is_some_and(|id| info.protocols.contains(id)) =>
            {
                if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                    for addr in &info.listen_addrs {
                        kad.add_address(peer_id, addr.clone());
                    }
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                message,
                ..
            })) if self.tells => println!("{}", gossip::line(message)),
            _ => {}
        }
        event
    }

    pub fn listen_on(&mut self, address: Multiaddr) -> Result<(), Failure> {
        self.swarm.listen_on(address)?;
        Ok(())
    }

    /// Listens and returns the first address that is ready, with our peer id.
    pub async fn listen(&mut self, address: &str) -> Result<Vec<Multiaddr>, Failure> {
        let listener = self.swarm.listen_on(address.parse()?)?;
        let own = *self.swarm.local_peer_id();
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::NewListenAddr {
                    listener_id,
                    address,
                } if listener_id == listener => {
                    // Only addresses that are believed to be reached go into provider records.
                    // Whoever asks AutoNAT believes in none yet.
                    if !self.swarm.behaviour().autonat_client.is_enabled() {
                        self.swarm.add_external_address(address.clone());
                    }
                    return Ok(vec![address.with(Protocol::P2p(own))]);
                }
                SwarmEvent::ListenerError { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }

    /// Runs the swarm until the task ends; a failure of the task is ours.
    pub async fn run_until<T>(&mut self, mut task: JoinHandle<T>) -> Result<T, Failure> {
        loop {
            let event = std::pin::pin!(self.next());
            if let Either::Left((ended, _)) = select(&mut task, event).await {
                return Ok(ended?);
            }
        }
    }

    /// Runs an operation beside the swarm, so that neither waits for the other's wake-ups.
    pub async fn beside<T: Send + 'static>(
        &mut self,
        operation: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.run_until(tokio::spawn(operation)).await?
    }

    /// Dials and returns once the connection is authenticated and multiplexed.
    pub async fn connect(&mut self, address: &Multiaddr) -> Result<PeerId, Failure> {
        self.swarm.dial(DialOpts::from(address.clone()))?;
        let wanted = nat::target(address);
        loop {
            match self.swarm.select_next_some().await {
                // A relay on the way is connected to before.
                SwarmEvent::ConnectionEstablished { peer_id, .. }
                    if wanted.is_none_or(|peer| peer == peer_id) =>
                {
                    return Ok(peer_id);
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }

    pub async fn disconnect(&mut self, peer: PeerId) -> Result<(), Failure> {
        self.swarm
            .disconnect_peer_id(peer)
            .map_err(|()| "the connection had gone before it was closed")?;
        while self.swarm.is_connected(&peer) {
            self.swarm.select_next_some().await;
        }
        Ok(())
    }

    pub async fn disconnect_all(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // It may have gone by itself, which is as good.
            let _ = self.disconnect(peer).await;
        }
    }

    pub fn control(&self) -> stream::Control {
        self.swarm.behaviour().streams.new_control()
    }

    pub async fn next_ping(&mut self) -> Result<Duration, Failure> {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { result, .. })) => {
                    return Ok(result?);
                }
                SwarmEvent::ConnectionClosed { cause, .. } => return Err(closed(cause)),
                _ => {}
            }
        }
    }

    pub async fn identified(&mut self) -> Result<identify::Info, Failure> {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => match event {
                    identify::Event::Received { info, .. } => return Ok(info),
                    identify::Event::Error { error, .. } => return Err(error.into()),
                    _ => {}
                },
                SwarmEvent::ConnectionClosed { cause, .. } => return Err(closed(cause)),
                _ => {}
            }
        }
    }
}

fn closed(cause: Option<impl std::fmt::Display>) -> Failure {
    match cause {
        Some(cause) => format!("the connection was closed: {cause}").into(),
        None => "the connection was closed".into(),
    }
}
