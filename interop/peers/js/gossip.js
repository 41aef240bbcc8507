// A gossip node, what `dial --gossip` does, and a network of nodes in this process.

import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { gossipsub } from '@libp2p/gossipsub'
import { openNode } from './stack.js'

const MET_MS = 10_000
const MESH_MS = 1500
const BURST_MS = 30_000
const POLL_MS = 20
const PUBLISH_GAP_MS = 10
const STEADY_GAP_MS = 50
const STEADY_COUNT = 100
const LOOPBACK = '/ip4/127.0.0.1/tcp/0'

// Peers are scored and exchanged; loopback has one address for all, so that is not held against them.
export function gossipService () {
  return {
    gossip: gossipsub({
      globalSignaturePolicy: 'StrictSign',
      doPX: true,
      floodPublish: true,
      allowPublishToZeroTopicPeers: true,
      scoreParams: { IPColocationFactorWeight: 0, behaviourPenaltyWeight: -10, behaviourPenaltyThreshold: 6, behaviourPenaltyDecay: 0.2 },
      scoreThresholds: {
        gossipThreshold: -10, publishThreshold: -50, graylistThreshold: -80, acceptPXThreshold: 0, opportunisticGraftThreshold: 1
      }
    })
  }
}

const digestOf = (data) => createHash('sha256').update(data).digest('hex')

// Prints a line for every message of the topic.
export function tell (node, topic) {
  node.services.gossip.addEventListener('message', ({ detail: message }) => {
    if (message.topic !== topic) {
      return
    }
    const line = {
      topic,
      from: message.from.toString(),
      seqno: message.sequenceNumber.toString(16).padStart(16, '0'),
      size: message.data.byteLength,
      sha256: digestOf(message.data)
    }
    process.stdout.write(`${JSON.stringify(line)}\n`)
  })
  node.services.gossip.subscribe(topic)
}

// Waits until so many peers are subscribed everywhere, and then for a heartbeat that grafts them.
async function met (nodes, topic, peers) {
  const deadline = Date.now() + MET_MS
  while (nodes.some((node) => node.services.gossip.getSubscribers(topic).length < peers)) {
    if (Date.now() > deadline) {
      throw new Error('too few peers are subscribed to the topic')
    }
    await sleep(POLL_MS)
  }
  await sleep(MESH_MS)
}

export async function gossip (options, address, { publish, size }) {
  const topic = options.gossip
  const node = await openNode({ stack: options.stack, listen: [options.listen], services: gossipService() })
  node.services.gossip.subscribe(topic)
  await node.dial(address)
  await met([node], topic, 1)
  const digests = []
  for (let i = 0; i < publish; i++) {
    const data = randomBytes(size)
    await node.services.gossip.publish(topic, data)
    digests.push(digestOf(data))
    await sleep(PUBLISH_GAP_MS)
  }
  await sleep(MESH_MS) // the last may still stand in a queue
  return { peer_id: node.peerId.toString(), published: publish, size, sha256: digests }
}

// Nodes that all know each other: a burst from one, then a steady rate from all in turn.
export async function gossipNetwork (options, { nodes: wanted, count, size }) {
  const topic = options.gossip
  const nodes = []
  let latencies = []
  for (let i = 0; i < wanted; i++) {
    const node = await openNode({ stack: options.stack, listen: [LOOPBACK], services: gossipService() })
    node.services.gossip.addEventListener('message', ({ detail: message }) => {
      if (!message.from.equals(node.peerId)) {
        latencies.push(performance.now() - Buffer.from(message.data).readDoubleBE())
      }
    })
    node.services.gossip.subscribe(topic)
    for (const other of nodes) {
      await node.dial(other.getMultiaddrs())
    }
    nodes.push(node)
  }
  await met(nodes, topic, wanted - 1)
  const publish = async (node) => {
    const data = randomBytes(size)
    data.writeDoubleBE(performance.now())
    await node.services.gossip.publish(topic, data)
  }
  const drained = async (expected) => {
    const deadline = Date.now() + BURST_MS
    while (latencies.length < expected && Date.now() < deadline) {
      await sleep(1)
    }
    const taken = latencies.sort((a, b) => a - b)
    latencies = []
    return taken
  }
  const expected = count * (wanted - 1)
  const start = performance.now()
  for (let i = 0; i < count; i++) {
    await publish(nodes[0])
  }
  const burst = (await drained(expected)).length
  const seconds = (performance.now() - start) / 1000
  for (let i = 0; i < STEADY_COUNT; i++) {
    await publish(nodes[i % wanted])
    await sleep(STEADY_GAP_MS)
  }
  const steady = await drained(STEADY_COUNT * (wanted - 1))
  return {
    nodes: wanted,
    count,
    size,
    expected,
    delivered: burst,
    burst_per_second: burst / seconds,
    steady_delivered: steady.length,
    p50_ms: steady[Math.floor(steady.length / 2)],
    p99_ms: steady[Math.floor(steady.length * 0.99)]
  }
}
