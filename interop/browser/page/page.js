// js-libp2p in a page: dials the node that the page's address names, pings it, and meets it in a gossip topic.

import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PINGS = 3

function show (name, value, failed = false) {
  const row = document.getElementById('rows').insertRow()
  row.insertCell().outerHTML = '<th></th>'
  row.cells[0].textContent = name
  const cell = row.insertCell()
  cell.textContent = value
  cell.className = failed ? 'failed' : ''
}

function heard (gossip, topic) {
  return new Promise((resolve) => {
    gossip.addEventListener('message', ({ detail: message }) => {
      if (message.topic === topic) {
        resolve({ from: message.from.toString(), text: new TextDecoder().decode(message.data) })
      }
    })
  })
}

function joinedBy (gossip, peer, topic) {
  return new Promise((resolve) => {
    const look = () => gossip.getSubscribers(topic).some((other) => other.equals(peer)) && resolve()
    gossip.addEventListener('subscription-change', look)
    look()
  })
}

async function meet ({ addr, topic, text }) {
  const node = await createLibp2p({
    transports: [webSockets()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    // As shipped a browser dials no loopback address and nothing without TLS.
    connectionGater: { denyDialMultiaddr: () => false },
    services: { identify: identify(), ping: ping(), gossip: gossipsub({ globalSignaturePolicy: 'StrictSign' }) }
  })
  const result = { browser: navigator.userAgent, peer_id: node.peerId.toString() }
  show('browser', result.browser)
  show('this page', result.peer_id)
  const connection = await node.dial(multiaddr(addr))
  show('dialled', connection.remoteAddr.toString())
  show('layers', `${connection.encryption}, ${connection.multiplexer}`)
  result.rtt_ms = []
  for (let i = 0; i < PINGS; i++) {
    result.rtt_ms.push(await node.services.ping.ping(connection.remotePeer))
  }
  show('pings', result.rtt_ms.map((rtt) => `${rtt} ms`).join(', '))
  const { agentVersion } = await node.services.identify.identify(connection)
  result.agent = agentVersion
  show('identified', agentVersion)

  const { gossip } = node.services
  const answer = heard(gossip, topic)
  gossip.subscribe(topic)
  await joinedBy(gossip, connection.remotePeer, topic)
  show('topic', topic)
  await gossip.publish(topic, new TextEncoder().encode(text))
  show('said', text)
  result.heard = await answer
  show('heard', `${result.heard.text} (from ${result.heard.from})`)
  return result
}

const tell = (result) => fetch('result', { method: 'POST', body: JSON.stringify(result) })

meet(Object.fromEntries(new URLSearchParams(location.search)))
  .catch((err) => {
    show('failed', err.message, true)
    return { error: `${err.name}: ${err.message}` }
  })
  .then(tell)
