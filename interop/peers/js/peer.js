// js-libp2p behind the contract of interop/peers/README.md.

import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { multiaddr } from '@multiformats/multiaddr'
import * as operations from './operations.js'
import { openNode } from './stack.js'

const DEFAULTS = {
  stack: 'tcp/noise/yamux',
  listen: '/ip4/127.0.0.1/tcp/0',
  count: '1',
  bytes: '1048576',
  write: '65536',
  concurrency: '1',
  up: '0',
  down: '0'
}
const GOODBYE_MS = 1000

function natural (name, text) {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Error(`--${name} takes a whole number, not "${text}"`)
  }
  return value
}

async function listen (options) {
  const node = await openNode({ stack: options.stack, listen: [options.listen] })
  for (const address of node.getMultiaddrs()) {
    process.stdout.write(`${address}\n`)
  }
  process.stdout.write('ready\n')
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
  process.stdin.on('error', () => process.exit(0))
}

async function dial (options, address, name) {
  const operation = operations[name]
  if (operation == null) {
    throw new Error(`no operation "${name}"`)
  }
  const numbers = {}
  for (const key of ['count', 'bytes', 'write', 'concurrency', 'up', 'down']) {
    numbers[key] = natural(key, options[key])
  }
  const node = await openNode({ stack: options.stack, identifyAtOnce: name !== 'identify' })
  const before = process.cpuUsage()
  const result = await operation(node, multiaddr(address), numbers)
  const used = process.cpuUsage(before)
  result.cpu_seconds = (used.user + used.system) / 1e6
  process.stdout.write(`${JSON.stringify(result)}\n`)
  // The result stands; leaving in good order is only a courtesy.
  await Promise.race([node.stop(), sleep(GOODBYE_MS)])
  process.exit(0)
}

async function main () {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, { type: 'string', default: value }]))
  })
  const [command, ...rest] = positionals
  if (command === 'listen' && rest.length === 0) {
    await listen(values)
  } else if (command === 'dial' && rest.length === 2) {
    await dial(values, ...rest)
  } else {
    throw new Error('usage: listen [--stack S] [--listen ADDR] | dial ADDR [--stack S] OPERATION [options]')
  }
}

main().catch((err) => {
  process.stderr.write(`js: ${err.message}\n`, () => process.exit(1))
})
