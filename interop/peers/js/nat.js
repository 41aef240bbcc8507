// Relays and what lies behind them.

import { setTimeout as sleep } from 'node:timers/promises'
import { autoNATv2 } from '@libp2p/autonat-v2'
import { circuitRelayServer } from '@libp2p/circuit-relay-v2'
import { dcutr } from '@libp2p/dcutr'

const LIMIT_MS = 40_000
const LOOK_MS = 20

export function natServices ({ relay, punch, autonat }) {
  return {
    ...(relay ? { relay: circuitRelayServer() } : {}),
    ...(punch ? { dcutr: dcutr() } : {}),
    ...(autonat ? { autonat: autoNATv2() } : {})
  }
}

async function until (what, look) {
  for (const end = Date.now() + LIMIT_MS; Date.now() < end; await sleep(LOOK_MS)) {
    const found = look()
    if (found != null) {
      return found
    }
  }
  throw new Error(`no ${what}`)
}

// Where the node is reached through the relay that it was told to listen on.
export async function reserved (node) {
  const relayed = () => node.getMultiaddrs().filter((address) => address.toString().includes('/p2p-circuit'))
  return await until('reservation', () => relayed().length > 0 ? relayed() : null)
}

// Connects through a relay and waits until there is a direct connection too.
export async function direct (node, address) {
  const { remotePeer } = await node.dial(address)
  const found = await until('direct connection', () => node.getConnections(remotePeer).find((each) => each.limits == null))
  return { direct: true, addr: found.remoteAddr.toString() }
}
