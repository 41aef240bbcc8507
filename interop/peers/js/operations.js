// What `dial` can do; each takes the node, the address and its options and returns the JSON object.

import { randomBytes } from 'node:crypto'
import { ECHO, PERF, PING } from './stack.js'
import { Reader, write, writeZeros } from './stream.js'

const PERF_CHUNK = 65536
const ECHO_CHUNK = 65536
// Prime, so that the pattern never lines up with a frame and a lost piece shows.
const PATTERN_SIZE = 65521
const PING_SIZE = 32

const now = () => performance.now()
const seconds = (since) => (now() - since) / 1000
// A stream option bag: the shipped limit is 64 outbound streams a protocol.
const MANY = { maxOutboundStreams: 100_000, runOnLimitedConnection: true }

export async function ping (node, address, { count }) {
  const connection = await node.dial(address)
  const rtts = []
  for (let i = 0; i < count; i++) {
    rtts.push(await node.services.ping.ping(connection.remotePeer))
  }
  return { rtt_ms: rtts }
}

export async function identify (node, address) {
  const connection = await node.dial(address)
  const found = await node.services.identify.identify(connection)
  return {
    peer_id: found.peerId.toString(),
    agent: found.agentVersion ?? '',
    protocol_version: found.protocolVersion ?? '',
    protocols: found.protocols,
    listen_addrs: found.listenAddrs.map(String),
    observed_addr: found.observedAddr?.toString() ?? '',
    signed_record: found.signedPeerRecord != null
  }
}

export async function echo (node, address, { bytes }) {
  const connection = await node.dial(address)
  const start = now()
  const stream = await connection.newStream(ECHO, MANY)
  await echoed(stream, bytes)
  return { bytes, ok: true, seconds: seconds(start) }
}

// Sends `size` patterned bytes and checks every byte that comes back, up to the end of the stream.
async function echoed (stream, size) {
  const pattern = randomBytes(PATTERN_SIZE)
  const doubled = Buffer.concat([pattern, pattern])
  const reader = new Reader(stream)
  const send = async () => {
    for (let sent = 0; sent < size;) {
      const offset = sent % PATTERN_SIZE
      const piece = Math.min(ECHO_CHUNK, PATTERN_SIZE, size - sent)
      await write(stream, doubled.subarray(offset, offset + piece))
      sent += piece
    }
    await stream.close()
  }
  const receive = async () => {
    let have = 0
    for (let chunk = await reader.next(); chunk != null; chunk = await reader.next()) {
      for (let at = 0; at < chunk.byteLength;) {
        const offset = have % PATTERN_SIZE
        const piece = Math.min(chunk.byteLength - at, PATTERN_SIZE)
        if (doubled.compare(chunk, at, at + piece, offset, offset + piece) !== 0) {
          throw new Error(`echo differs within ${piece} bytes after ${have}`)
        }
        at += piece
        have += piece
      }
    }
    if (have !== size) {
      throw new Error(`echo gave ${have} of ${size} bytes`)
    }
  }
  await Promise.all([send(), receive()])
}

// One exchange of /perf/1.0.0. The server answers only after the end of the upload, so the upload has
// arrived when the first answer, or the end, comes.
async function exchange (connection, up, down, chunk) {
  const start = now()
  const stream = await connection.newStream(PERF, MANY)
  const reader = new Reader(stream)
  const header = Buffer.alloc(8)
  header.writeBigUInt64BE(BigInt(down))
  await write(stream, header)
  await writeZeros(stream, up, chunk)
  await stream.close()
  let received = 0
  let uploaded = null
  for (let piece = await reader.next(); ; piece = await reader.next()) {
    uploaded ??= seconds(start)
    if (piece == null) {
      break
    }
    received += piece.byteLength
  }
  if (received !== down) {
    throw new Error(`perf gave ${received} of ${down} bytes`)
  }
  const total = seconds(start)
  return { total, uploaded, downloaded: total - uploaded }
}

export async function perf (node, address, { up, down }) {
  const connection = await node.dial(address)
  const took = await exchange(connection, up, down, PERF_CHUNK)
  return { up, down, seconds: took.total, upload_seconds: took.uploaded, download_seconds: took.downloaded }
}

export async function bulk (node, address, { bytes, write: chunk }) {
  const connection = await node.dial(address)
  const took = await exchange(connection, bytes, 0, chunk)
  return { bytes, seconds: took.total }
}

export async function reconnect (node, address, { count }) {
  const start = now()
  for (let i = 0; i < count; i++) {
    const connection = await node.dial(address, { force: true })
    await node.services.ping.ping(connection.remotePeer)
    await connection.close()
  }
  return { count, seconds: seconds(start) }
}

export async function handshakes (node, address, { count }) {
  const latencies = []
  const start = now()
  for (let i = 0; i < count; i++) {
    const dialed = now()
    const connection = await node.dial(address, { force: true })
    latencies.push(now() - dialed)
    await echoed(await connection.newStream(ECHO, MANY), 1)
    await connection.close()
  }
  return { count, seconds: seconds(start), latency_ms: latencies }
}

export async function streams (node, address, { count, concurrency }) {
  const connection = await node.dial(address)
  let left = count
  const worker = async () => {
    while (left-- > 0) {
      await echoed(await connection.newStream(ECHO, MANY), 1)
    }
  }
  const start = now()
  await Promise.all(Array.from({ length: concurrency }, worker))
  return { count, seconds: seconds(start) }
}

export async function rtt (node, address, { count }) {
  const connection = await node.dial(address)
  const stream = await connection.newStream(PING, MANY)
  const reader = new Reader(stream)
  const rtts = []
  for (let i = 0; i < count; i++) {
    const sent = randomBytes(PING_SIZE)
    const start = now()
    await write(stream, sent)
    const back = await reader.exactly(PING_SIZE)
    rtts.push(now() - start)
    if (!back.equals(sent)) {
      throw new Error('the ping came back changed')
    }
  }
  await stream.close()
  return { rtt_ms: rtts }
}
