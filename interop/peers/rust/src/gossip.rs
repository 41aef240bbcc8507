//! A gossip node: its configuration, a line for every message, and what `dial --gossip` does.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr,
    gossipsub::{
        self, Behaviour, ConfigBuilder, IdentTopic, Message, MessageAuthenticity, MessageId,
        PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode,
    },
    identity::Keypair,
    swarm::SwarmEvent,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    Failure, hex,
    node::{BehaviourEvent, Node},
    operations::pattern,
};

const MET_WITHIN: Duration = Duration::from_secs(10);
const MESH: Duration = Duration::from_millis(1500);
const PUBLISH_GAP: Duration = Duration::from_millis(10);

/// Author and sequence number, as the specification has it; as shipped, both as text.
fn message_id(message: &Message) -> MessageId {
    let mut id = message.source.map_or(vec![], |peer| peer.to_bytes());
    id.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
    MessageId::new(&id)
}

/// Peers are scored and exchanged; loopback has one address for all, so that is not held against them.
pub fn behaviour(key: &Keypair, topic: &str) -> Result<Behaviour, Failure> {
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .message_id_fn(message_id)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .do_px()
        .build()?;
    let mut gossip = Behaviour::new(MessageAuthenticity::Signed(key.clone()), config)?;
    let topic = IdentTopic::new(topic);
    let scores = PeerScoreParams {
        topics: HashMap::from([(
            topic.hash(),
            TopicScoreParams {
                mesh_message_deliveries_weight: 0.0,
                mesh_failure_penalty_weight: 0.0,
                ..Default::default()
            },
        )]),
        ip_colocation_factor_weight: 0.0,
        ..Default::default()
    };
    let thresholds = PeerScoreThresholds {
        accept_px_threshold: 0.0,
        ..Default::default()
    };
    gossip.with_peer_score(scores, thresholds)?;
    gossip.subscribe(&topic)?;
    Ok(gossip)
}

/// The line of the contract.
pub fn line(message: &Message) -> Value {
    json!({
        "topic": message.topic.as_str(),
        "from": message.source.map(|peer| peer.to_string()),
        "seqno": message.sequence_number.map(|number| format!("{number:016x}")),
        "size": message.data.len(),
        "sha256": hex::digest(&message.data),
    })
}

/// Drives the node for a while.
async fn run_for(node: &mut Node, time: Duration) -> Result<(), Failure> {
    node.run_until(tokio::spawn(sleep(time))).await
}

async fn subscribed(node: &mut Node) {
    while !matches!(
        node.next().await,
        SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Subscribed { .. }))
    ) {}
}

pub async fn publish(
    node: &mut Node,
    address: &Multiaddr,
    topic: &str,
    count: u64,
    size: u64,
) -> Result<Value, Failure> {
    node.connect(address).await?;
    timeout(MET_WITHIN, subscribed(node))
        .await
        .map_err(|_| "nobody is subscribed to the topic")?;
    run_for(node, MESH).await?;
    let start = Instant::now();
    let mut digests = Vec::new();
    for _ in 0..count {
        let data: Vec<u8> = pattern().into_iter().cycle().take(size as usize).collect();
        digests.push(hex::digest(&data));
        node.gossip()?.publish(IdentTopic::new(topic), data)?;
        run_for(node, PUBLISH_GAP).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    run_for(node, MESH).await?; // the last may still stand in a queue
    Ok(json!({
        "peer_id": node.peer_id().to_string(),
        "published": count,
        "size": size,
        "sha256": digests,
        "seconds": seconds,
    }))
}
