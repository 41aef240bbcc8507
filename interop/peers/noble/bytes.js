// Bytes and protobuf, as far as the formats need them; written from docs/protocols alone.

export const ascii = (text) => new TextEncoder().encode(text)
export const hex = (bytes) => Buffer.from(bytes).toString('hex')
export const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'))

export function join (...parts) {
  return new Uint8Array(Buffer.concat(parts))
}

export function uint (value, size) {
  const out = new Uint8Array(size)
  let rest = BigInt(value)
  for (let at = size - 1; at >= 0; at--) {
    out[at] = Number(rest & 255n)
    rest >>= 8n
  }
  return out
}

export const equal = (a, b) => Buffer.compare(a, b) === 0
export const lp = (bytes) => join(uint(bytes.length, 2), bytes)

export function varint (value) {
  const out = []
  let rest = BigInt(value)
  while (rest >= 128n) {
    out.push(Number(rest & 127n) | 128)
    rest >>= 7n
  }
  out.push(Number(rest))
  return new Uint8Array(out)
}

// [[number, value], …] in order, numbers and bytes; what is zero or empty is left out, as proto3 does.
export function encode (fields) {
  const parts = []
  for (const [number, value] of fields) {
    if (value instanceof Uint8Array) {
      if (value.length > 0) parts.push(varint(number << 3 | 2), varint(value.length), value)
    } else if (BigInt(value) !== 0n) {
      parts.push(varint(number << 3), varint(value))
    }
  }
  return join(...parts)
}

// number -> list of values: BigInt for a varint, bytes for bytes.
export function decode (data) {
  const found = new Map()
  let at = 0
  const next = () => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      if (at >= data.length || shift > 63n) throw new Error('a varint is cut off or too long')
      const byte = data[at++]
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return value
    }
  }
  while (at < data.length) {
    const tag = Number(next())
    let value = next()
    if ((tag & 7) === 2) {
      const end = at + Number(value)
      if (end > data.length) throw new Error('a field is cut off')
      value = data.subarray(at, end)
      at = end
    } else if ((tag & 7) !== 0) {
      throw new Error(`wire type ${tag & 7}`)
    }
    const list = found.get(tag >> 3) ?? []
    list.push(value)
    found.set(tag >> 3, list)
  }
  return {
    bytes: (number) => found.get(number)?.at(-1) ?? new Uint8Array(),
    number: (number) => found.get(number)?.at(-1) ?? 0n,
    all: (number) => found.get(number) ?? []
  }
}
