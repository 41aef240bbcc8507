// Envelopes as docs/protocols/messaging.md has them.

import { ed25519, x25519 } from '@noble/curves/ed25519.js'
import { chacha20poly1305 } from '@noble/ciphers/chacha.js'
import { hkdf } from '@noble/hashes/hkdf.js'
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { ascii, decode, encode, equal, hex, join, lp, uint, unhex } from './bytes.js'

const CONTENT = ascii('talos/content/v1\n')
const ENVELOPE = ascii('talos/envelope/v1\n')
const MARK = new Uint8Array([1, 1])
const FRONT = 2 + 32 + 12

function key (shared, salt, domain, context) {
  return hkdf(sha256, shared, salt, join(domain, sha256(context)), 32)
}

function seal (to, domain, context, plaintext, ephemeral, nonce) {
  const pub = x25519.getPublicKey(ephemeral)
  const made = key(x25519.getSharedSecret(ephemeral, to), join(pub, to), domain, context)
  return [pub, chacha20poly1305(made, nonce, context).encrypt(plaintext)]
}

function open (secret, domain, context, pub, ciphertext, nonce) {
  const made = key(x25519.getSharedSecret(secret, pub), join(pub, x25519.getPublicKey(secret)), domain, context)
  return chacha20poly1305(made, nonce, context).decrypt(ciphertext)
}

function canonical (p) {
  const chunk = p.chunk === undefined
    ? new Uint8Array([0])
    : join(new Uint8Array([1]), p.chunk.streamId, uint(p.chunk.index, 8), uint(p.chunk.total, 8), uint(p.chunk.offset, 8),
      uint(p.chunk.size, 4), p.chunk.hash, uint(p.chunk.last, 1))
  return join(ascii('talos/msg/v1\n'), uint(p.type, 1), uint(p.suite, 1), p.id, p.sender, lp(p.recipient), lp(p.channel),
    uint(p.device, 4), uint(p.timestamp, 8), uint(p.ttl, 4), uint(p.epoch, 8), uint(p.seq, 8), p.prev, p.commit, p.nonce, chunk)
}

const digestOf = (m, content) => sha256(join(m, sha256(content)))
const signed = (digest) => join(ascii('talos/msg-sig/v1\n'), digest)

function pad (body) {
  const used = 4 + body.length
  let size = 1024
  while (size < used) size += size < 65536 ? size : 8192
  if (size > 88 * 1024) throw new Error('too long')
  return join(uint(body.length, 4), body, new Uint8Array(size - used))
}

function unpad (padded) {
  const end = 4 + Buffer.from(padded).readUInt32BE(0)
  if (end > padded.length || padded.subarray(end).some((byte) => byte !== 0)) throw new Error('padding is not zero')
  return padded.subarray(4, end)
}

export function sealMessage (given) {
  const secret = unhex(given.sender_seed)
  const to = unhex(given.recipient_x25519)
  const frank = unhex(given.frank)
  const text = encode([[1, ascii(given.media_type)], [2, ascii(given.body)]])
  const p = {
    id: unhex(given.id),
    type: 1,
    suite: 1,
    sender: ed25519.getPublicKey(secret),
    recipient: unhex(given.recipient),
    channel: new Uint8Array(),
    device: 0,
    timestamp: given.timestamp_ms,
    ttl: given.ttl_s ?? 0,
    epoch: given.epoch,
    seq: given.seq,
    prev: unhex(given.prev ?? '00'.repeat(32)),
    commit: hmac(sha256, frank, text),
    nonce: unhex(given.inner_nonce)
  }
  const m = canonical(p)
  const content = join(...seal(to, CONTENT, m, join(frank, text), unhex(given.inner_ephemeral), p.nonce))
  const digest = digestOf(m, content)
  const payload = encode([
    [1, p.id], [2, p.type], [3, p.sender], [4, p.recipient], [5, p.timestamp], [6, content],
    [7, ed25519.sign(signed(digest), secret)], [8, p.nonce], [10, p.suite], [11, p.epoch], [12, p.seq], [13, p.prev],
    [14, p.commit], [17, p.ttl]
  ])
  const nonce = unhex(given.outer_nonce)
  const outer = seal(to, ENVELOPE, join(MARK, p.recipient), pad(encode([[1, payload]])), unhex(given.outer_ephemeral), nonce)
  const envelope = join(MARK, outer[0], nonce, outer[1])
  return { envelope: hex(envelope), m: hex(m), digest: hex(digest), payload: hex(payload) }
}

export function openMessage (given) {
  const envelope = unhex(given.envelope)
  const secret = unhex(given.recipient_x25519_secret)
  if (!equal(envelope.subarray(0, 2), MARK)) throw new Error('another version or suite')
  const outer = open(secret, ENVELOPE, join(MARK, unhex(given.recipient)), envelope.subarray(2, 34),
    envelope.subarray(FRONT), envelope.subarray(34, FRONT))
  const body = decode(unpad(outer))
  const f = decode(body.bytes(1))
  const info = f.all(9).length > 0 ? decode(f.bytes(9)) : undefined
  const p = {
    id: f.bytes(1),
    type: f.number(2),
    sender: f.bytes(3),
    recipient: f.bytes(4),
    timestamp: f.number(5),
    nonce: f.bytes(8),
    suite: f.number(10),
    epoch: f.number(11),
    seq: f.number(12),
    prev: f.bytes(13),
    commit: f.bytes(14),
    channel: f.bytes(15),
    device: f.number(16),
    ttl: f.number(17),
    chunk: info && {
      streamId: info.bytes(1),
      index: info.number(2),
      total: info.number(3),
      offset: info.number(4),
      size: info.number(5),
      hash: info.bytes(6),
      last: info.number(7)
    }
  }
  if (!equal(p.recipient, unhex(given.recipient))) throw new Error('for somebody else')
  const m = canonical(p)
  const content = f.bytes(6)
  const digest = digestOf(m, content)
  if (!ed25519.verify(f.bytes(7), signed(digest), p.sender)) throw new Error('the signature does not hold')
  const inner = open(secret, CONTENT, m, content.subarray(0, 32), content.subarray(32), p.nonce)
  if (!equal(hmac(sha256, inner.subarray(0, 32), inner.subarray(32)), p.commit)) throw new Error('not what was committed to')
  return {
    sender: hex(p.sender),
    id: hex(p.id),
    type: Number(p.type),
    seq: Number(p.seq),
    content: hex(inner.subarray(32)),
    m: hex(m),
    digest: hex(digest),
    key_record: hex(body.bytes(2)),
    sealed_hash: hex(sha256(join(ascii('talos/sealed/v1\n'), envelope)))
  }
}
