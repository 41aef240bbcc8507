// One question a line on stdin, its answer on stdout: {"do": …} -> {"ok": …} or {"refused": why}.

import { createInterface } from 'node:readline'
import { openFile, readManifest, sealFile, writeManifest } from './files.js'
import { openMessage, sealMessage } from './messages.js'

const able = { openMessage, sealMessage, openFile, sealFile, readManifest, writeManifest }

for await (const line of createInterface({ input: process.stdin })) {
  const given = JSON.parse(line)
  let answer
  try {
    answer = { ok: able[given.do](given) }
  } catch (error) {
    answer = { refused: String(error.message ?? error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
