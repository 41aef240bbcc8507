// js-libp2p behind the contract of interop/peers/README.md.

import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { multiaddr } from '@multiformats/multiaddr'
import { dhtNetwork, dhtOperations, dhtService, joined, openDht } from './dht.js'
import { gossip, gossipNetwork, gossipService, tell } from './gossip.js'
import { direct, natServices, reserved } from './nat.js'
import * as basic from './operations.js'
import { openNode } from './stack.js'

const DEFAULTS = {
  stack: 'tcp/noise/yamux',
  listen: '/ip4/127.0.0.1/tcp/0',
  count: '1',
  bytes: '1048576',
  write: '65536',
  concurrency: '1',
  up: '0',
  down: '0',
  dht: '',
  gossip: '',
  via: '',
  publish: '1',
  size: '1024',
  nodes: '10'
}
const NUMBERS = ['count', 'bytes', 'write', 'concurrency', 'up', 'down', 'publish', 'size', 'nodes']
const GOODBYE_MS = 1000
const operations = { ...basic, direct }

function natural (name, text) {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Error(`--${name} takes a whole number, not "${text}"`)
  }
  return value
}

async function listen (options) {
  const services = {
    ...(options.dht === '' ? {} : dhtService(options.dht, true)),
    ...(options.gossip === '' ? {} : gossipService()),
    ...natServices(options)
  }
  const listen = [options.listen, ...(options.via === '' ? [] : [`${options.via}/p2p-circuit`])]
  const node = await openNode({ stack: options.stack, listen, services })
  const bootstrap = options.bootstrap.map((text) => multiaddr(text))
  if (options.dht !== '') {
    await joined(node, bootstrap)
  } else {
    await Promise.all(bootstrap.map((address) => node.dial(address)))
  }
  // With AutoNAT a public address is told to nobody before others have confirmed it.
  const told = options.autonat ? [`${options.listen}/p2p/${node.peerId}`] : node.getMultiaddrs()
  for (const address of options.via === '' ? told : await reserved(node)) {
    process.stdout.write(`${address}\n`)
  }
  process.stdout.write('ready\n')
  if (options.gossip !== '') {
    tell(node, options.gossip)
  }
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
  process.stdin.on('error', () => process.exit(0))
}

// Prints the result of a run with the CPU time that it cost, and ends.
async function told (run, stop = async () => {}) {
  const before = process.cpuUsage()
  const result = await run()
  const used = process.cpuUsage(before)
  result.cpu_seconds = (used.user + used.system) / 1e6
  process.stdout.write(`${JSON.stringify(result)}\n`)
  // The result stands; leaving in good order is only a courtesy.
  await Promise.race([stop(), sleep(GOODBYE_MS)])
  process.exit(0)
}

async function dial (options, numbers, address, name) {
  const operation = operations[name]
  if (operation == null) {
    throw new Error(`no operation "${name}"`)
  }
  const punch = name === 'direct'
  const node = await openNode({
    stack: options.stack,
    identifyAtOnce: name !== 'identify',
    listen: punch ? [options.listen] : [],
    services: natServices({ punch })
  })
  await told(async () => await operation(node, multiaddr(address), numbers), async () => await node.stop())
}

async function dialDht (options, address, name, words) {
  const [wanted, operation] = dhtOperations[name] ?? []
  if (wanted !== words.length) {
    throw new Error(`no DHT operation "${name}" with ${words.length} words`)
  }
  await told(async () => {
    const node = await openDht(options, { server: false, bootstrap: [multiaddr(address)] })
    return await operation(node, ...words)
  })
}

async function main () {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      ...Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, { type: 'string', default: value }])),
      relay: { type: 'boolean', default: false },
      punch: { type: 'boolean', default: false },
      autonat: { type: 'boolean', default: false },
      bootstrap: { type: 'string', multiple: true, default: [] }
    }
  })
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, natural(name, values[name])]))
  const [command, ...rest] = positionals
  if (command === 'listen' && rest.length === 0) {
    await listen(values)
  } else if (command === 'network' && rest.length === 0 && values.dht !== '') {
    await told(async () => await dhtNetwork(values, numbers))
  } else if (command === 'network' && rest.length === 0 && values.gossip !== '') {
    await told(async () => await gossipNetwork(values, numbers))
  } else if (command === 'dial' && rest.length > 2 && values.dht !== '') {
    await dialDht(values, rest[0], rest[1], rest.slice(2))
  } else if (command === 'dial' && rest.length === 2 && values.gossip !== '' && rest[1] === 'gossip') {
    await told(async () => await gossip(values, multiaddr(rest[0]), numbers))
  } else if (command === 'dial' && rest.length === 2) {
    await dial(values, numbers, ...rest)
  } else {
    throw new Error(
      'usage: listen [--stack S] [--listen ADDR] | dial ADDR [--stack S] OPERATION [options] | network [options]; ' +
      'each with --dht ID or --gossip TOPIC')
  }
}

main().catch((err) => {
  process.stderr.write(`js: ${err.message}\n`, () => process.exit(1))
})
