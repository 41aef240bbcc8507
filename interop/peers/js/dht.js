// A DHT node, what `dial --dht` can do, and a network of nodes in this process.

import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import * as Digest from 'multiformats/hashes/digest'
import { openNode } from './stack.js'

const TABLE_MS = 10_000
const POLL_MS = 20
// Nobody answers a provider record, and one that is still on its way dies with the connection.
const LINGER_MS = 500
const MANY = 100_000
const LOOPBACK = '/ip4/127.0.0.1/tcp/0'

// The service, by name; records under /example/ are taken unchecked.
export function dhtService (id, server) {
  return {
    dht: kadDHT({
      protocol: id,
      clientMode: !server,
      peerInfoMapper: passthroughMapper,
      validators: { example: () => {} },
      selectors: { example: () => 0 },
      // As shipped: queries wait for a second and more after the start.
      initialQuerySelfInterval: 50,
      maxInboundStreams: MANY,
      maxOutboundStreams: MANY
    })
  }
}

const inTable = (node) => node.services.dht.routingTable.size

// Connects, and waits until the table has somebody: that takes an identify and a ping.
export async function joined (node, bootstrap) {
  for (const address of bootstrap) {
    await node.dial(address)
  }
  const deadline = Date.now() + TABLE_MS
  while (bootstrap.length > 0 && inTable(node) === 0) {
    if (Date.now() > deadline) {
      throw new Error('no bootstrap peer serves this DHT')
    }
    await sleep(POLL_MS)
  }
}

export async function openDht (options, { server, bootstrap }) {
  const node = await openNode({
    stack: options.stack, listen: [options.listen], services: dhtService(options.dht, server)
  })
  await joined(node, bootstrap)
  return node
}

const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'))
const cidOf = (key) => CID.createV1(raw.code, Digest.decode(key))

async function findPeer (node, peer) {
  const found = await node.peerRouting.findPeer(peerIdFromString(peer))
  return { peer_id: found.id.toString(), addrs: found.multiaddrs.map(String) }
}

async function put (node, key, value) {
  await node.contentRouting.put(bytes(key), bytes(value))
  return { key, ok: true }
}

async function get (node, key) {
  return { key, value: Buffer.from(await node.contentRouting.get(bytes(key))).toString('hex') }
}

async function provide (node, key) {
  await node.contentRouting.provide(cidOf(bytes(key)))
  await sleep(LINGER_MS)
  return { key, peer_id: node.peerId.toString(), ok: true }
}

async function findProviders (node, key) {
  const providers = []
  for await (const provider of node.contentRouting.findProviders(cidOf(bytes(key)))) {
    providers.push(provider.id.toString())
  }
  if (providers.length === 0) {
    throw new Error('no providers')
  }
  return { key, providers }
}

// Each with the number of words behind its name.
export const dhtOperations = {
  'find-peer': [1, findPeer],
  put: [2, put],
  get: [1, get],
  provide: [1, provide],
  'find-providers': [1, findProviders]
}

function keyOf (kind, i) {
  const digest = createHash('sha256').update(`${kind} ${i}`).digest()
  return Uint8Array.from([0x12, 32, ...digest])
}

// Servers and two clients: one writes, the other one reads.
export async function dhtNetwork (options, { nodes, count }) {
  const open = async (server, first) => await openDht(
    { ...options, listen: LOOPBACK }, { server, bootstrap: first == null ? [] : first.getMultiaddrs() })
  const first = await open(true)
  for (let i = 1; i < nodes; i++) {
    await open(true, first)
  }
  const deadline = Date.now() + TABLE_MS
  while (inTable(first) < nodes - 1 && Date.now() < deadline) {
    await sleep(POLL_MS)
  }
  const writer = await open(false, first)
  const reader = await open(false, first)
  const name = (i) => Uint8Array.from(Buffer.from(`/example/${i}`))
  const found = { count, nodes, table: inTable(first) }
  const timed = {
    provide: async (i) => await writer.contentRouting.provide(cidOf(keyOf('provided', i))),
    put: async (i) => await writer.contentRouting.put(name(i), keyOf('value', i)),
    get: async (i) => {
      const value = await reader.contentRouting.get(name(i))
      if (!Buffer.from(value).equals(Buffer.from(keyOf('value', i)))) {
        throw new Error('another value than was put')
      }
    },
    find: async (i) => {
      for await (const provider of reader.contentRouting.findProviders(cidOf(keyOf('provided', i)))) {
        return provider
      }
      throw new Error('no provider')
    }
  }
  for (const [operation, run] of Object.entries(timed)) {
    const start = performance.now()
    for (let i = 0; i < count; i++) {
      await run(i)
    }
    found[`${operation}_per_second`] = count / (performance.now() - start) * 1000
  }
  return found
}
