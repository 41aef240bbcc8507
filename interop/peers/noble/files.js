// Files as docs/protocols/files.md has them.

import { chacha20poly1305 } from '@noble/ciphers/chacha.js'
import { hkdf } from '@noble/hashes/hkdf.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { ascii, decode, encode, hex, join, uint, unhex } from './bytes.js'

const MIB = 1024 * 1024

function chunkSize (size) {
  if (size < 64 * MIB) return 256 * 1024
  return size < 512 * MIB ? 512 * 1024 : MIB
}

const leaf = (chunk) => sha256(join(new Uint8Array([0]), chunk))

// RFC 6962, section 2.1, as it is written there.
function root (leaves) {
  if (leaves.length === 0) return sha256(new Uint8Array())
  if (leaves.length === 1) return leaves[0]
  let split = 1
  while (split * 2 < leaves.length) split *= 2
  return sha256(join(new Uint8Array([1]), root(leaves.slice(0, split)), root(leaves.slice(split))))
}

function cut (data) {
  const size = chunkSize(data.length)
  const chunks = []
  for (let at = 0; at < data.length; at += size) chunks.push(data.subarray(at, at + size))
  return chunks
}

function cipher (given, index, last) {
  const file = uint(given.file, 4)
  const stream = unhex(given.stream_id)
  const key = hkdf(sha256, unhex(given.key), stream, join(ascii('talos/file/v1\n'), file), 32)
  const ad = join(ascii('talos/chunk/v1\n'), stream, file, uint(index, 8), uint(last ? 1 : 0, 1))
  return chacha20poly1305(key, join(uint(0, 4), uint(index, 8)), ad)
}

export function sealFile (given) {
  const data = unhex(given.data)
  const chunks = cut(data)
  const leaves = chunks.map(leaf)
  return {
    chunk_size: chunkSize(data.length),
    leaves: leaves.map(hex),
    root: hex(root(leaves)),
    sha256: hex(sha256(data)),
    sealed: chunks.map((chunk, index) => hex(cipher(given, index, index === chunks.length - 1).encrypt(chunk)))
  }
}

export function openFile (given) {
  const chunks = given.sealed.map((sealed, index) =>
    cipher(given, index, index === given.sealed.length - 1).decrypt(unhex(sealed)))
  return { data: hex(join(...chunks)), root: hex(root(chunks.map(leaf))) }
}

export function writeManifest (given) {
  const entries = given.files.map((file) => encode([
    [1, ascii(file.path)], [2, file.size], [3, ascii(file.mime)], [4, file.chunk_size], [5, unhex(file.root)],
    [6, unhex(file.sha256)]
  ]))
  const manifest = encode(entries.map((entry) => [1, entry]))
  return { manifest: hex(manifest), hash: hex(sha256(manifest)) }
}

export function readManifest (given) {
  const text = (bytes) => new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  return {
    files: decode(unhex(given.manifest)).all(1).map((entry) => {
      const f = decode(entry)
      return {
        path: text(f.bytes(1)),
        size: Number(f.number(2)),
        mime: text(f.bytes(3)),
        chunk_size: Number(f.number(4)),
        root: hex(f.bytes(5)),
        sha256: hex(f.bytes(6))
      }
    })
  }
}
