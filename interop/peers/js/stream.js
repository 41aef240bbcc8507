// Reading and writing whole things on a js-libp2p stream.

// Reading pauses while this much is unread, so that the muxer's window closes and the sender waits.
const UNREAD_LIMIT = 1024 * 1024

// The stream's own async iterator misses an end that came before it was asked for. And a stream can be
// "ended" with bytes still to read: negotiation puts back what came behind it, after the end was seen.
export class Reader {
  constructor (stream) {
    this.stream = stream
    this.chunks = []
    this.unread = 0
    this.ended = stream.readableEnded
    this.error = null
    this.wake = null
    stream.addEventListener('message', (event) => {
      const data = event.data.subarray()
      this.chunks.push(data)
      this.unread += data.byteLength
      if (this.unread > UNREAD_LIMIT && stream.readStatus === 'readable') {
        stream.pause()
      }
      this.#notify()
    })
    stream.addEventListener('end', () => {
      this.ended = true
      this.#notify()
    })
    stream.addEventListener('close', (event) => {
      this.ended = true
      this.error = event.error ?? null
      this.#notify()
    })
  }

  #notify () {
    this.wake?.()
    this.wake = null
  }

  // The next chunk, or null at the end of the stream.
  async next () {
    while (this.chunks.length === 0) {
      if (this.error != null) {
        throw this.error
      }
      if (this.ended && this.stream.readBufferLength === 0) {
        return null
      }
      await new Promise((resolve) => { this.wake = resolve })
    }
    const chunk = this.chunks.shift()
    this.unread -= chunk.byteLength
    if (this.unread <= UNREAD_LIMIT && this.stream.readStatus === 'paused') {
      this.stream.resume()
    }
    return chunk
  }

  async exactly (size) {
    const parts = []
    let have = 0
    while (have < size) {
      const chunk = await this.next()
      if (chunk == null) {
        throw new Error(`stream ended after ${have} of ${size} bytes`)
      }
      parts.push(chunk)
      have += chunk.byteLength
    }
    const whole = Buffer.concat(parts)
    if (have > size) {
      const rest = whole.subarray(size)
      this.chunks.unshift(rest)
      this.unread += rest.byteLength
    }
    return whole.subarray(0, size)
  }
}

export async function write (stream, data) {
  if (!stream.send(data)) {
    await stream.onDrain()
  }
}

// Sends `size` zero bytes in pieces of `chunk`.
export async function writeZeros (stream, size, chunk) {
  const piece = new Uint8Array(chunk)
  let left = size
  while (left > 0) {
    const now = Math.min(left, chunk)
    await write(stream, now === chunk ? piece : piece.subarray(0, now))
    left -= now
  }
}
