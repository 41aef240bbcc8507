// The node: stacks, limits and the services of the contract.

import { readFileSync } from 'node:fs'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { mplex } from '@libp2p/mplex'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { plaintext } from '@libp2p/plaintext'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { quic } from '@chainsafe/libp2p-quic'
import { createLibp2p } from 'libp2p'
import { Reader, write, writeZeros } from './stream.js'

export const ECHO = '/echo/1.0.0'
export const PERF = '/perf/1.0.0'
export const PING = '/ipfs/ping/1.0.0'

const TRANSPORTS = { tcp, ws: () => webSockets(), wss: secureWebSockets }
const SECURITY = { noise, tls, plaintext }
const MUXERS = { yamux, mplex }
// Transports that bring their own security and streams are a whole stack.
const WHOLE = { 'quic-v1': quic }
const PERF_CHUNK = 65536
const MANY = 100_000
const LONG_MS = 3_600_000

// As a listener it shows the certificate of the environment; as a dialer it trusts NODE_EXTRA_CA_CERTS.
function secureWebSockets () {
  const { WEB_CHAIN: chain, WEB_KEY: key } = process.env
  const https = chain == null || key == null ? undefined : { cert: readFileSync(chain), key: readFileSync(key) }
  return webSockets({ https })
}

function pick (table, name, kind) {
  const found = table[name]
  if (found == null) {
    throw new Error(`js has no ${kind} "${name}"`)
  }
  return found
}

// The options of createLibp2p that a stack decides.
function layers (stack) {
  if (WHOLE[stack] != null) {
    return { transports: [WHOLE[stack]()] }
  }
  const [transport, security, muxer, ...rest] = stack.split('/')
  if (muxer == null || rest.length > 0) {
    throw new Error(`a stack is TRANSPORT/SECURITY/MUXER or quic-v1, not "${stack}"`)
  }
  return {
    transports: [pick(TRANSPORTS, transport, 'transport')(), circuitRelayTransport()],
    connectionEncrypters: [pick(SECURITY, security, 'security')()],
    // As shipped: mplex closes a connection that opens more than 5 streams a second.
    streamMuxers: [pick(MUXERS, muxer, 'muxer')(muxer === 'mplex' ? { disconnectThreshold: MANY } : {})]
  }
}

export async function openNode ({ stack, listen = [], identifyAtOnce = true, services = {} }) {
  const node = await createLibp2p({
    addresses: { listen },
    ...layers(stack),
    // As shipped: 5 inbound connections a second from one host, 10 unfinished ones.
    connectionManager: {
      inboundConnectionThreshold: MANY,
      maxIncomingPendingConnections: MANY,
      maxConnections: MANY
    },
    services: {
      identify: identify({ runOnConnectionOpen: identifyAtOnce }),
      // As shipped a ping stream is aborted 10 s after it was opened.
      ping: ping({ timeout: LONG_MS, maxInboundStreams: MANY, maxOutboundStreams: MANY }),
      ...services
    }
  })
  const many = { maxInboundStreams: MANY, maxOutboundStreams: MANY, runOnLimitedConnection: true }
  await node.handle(ECHO, serve(echo), many)
  await node.handle(PERF, serve(perf), many)
  return node
}

function serve (handler) {
  return async (stream) => {
    try {
      await handler(stream, new Reader(stream))
    } catch (err) {
      stream.abort(err)
    }
  }
}

async function echo (stream, reader) {
  for (let chunk = await reader.next(); chunk != null; chunk = await reader.next()) {
    await write(stream, chunk)
  }
  await stream.close()
}

async function perf (stream, reader) {
  const wanted = Number((await reader.exactly(8)).readBigUInt64BE())
  while (await reader.next() != null) {
    // The upload is only counted by its sender.
  }
  await writeZeros(stream, wanted, PERF_CHUNK)
  await stream.close()
}
