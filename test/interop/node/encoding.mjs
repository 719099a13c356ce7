// The encodings of the mesh, each with one spelling for each value.

import { createHash } from 'node:crypto'

// Refusal is a verdict with its stable code.
export class Refusal extends Error {
  constructor(code, detail = '') {
    super(detail ? `${code}: ${detail}` : code)
    this.code = code
  }
}

export const refuse = (code, detail) => { throw new Refusal(code, detail) }

export const sha256 = (...parts) => {
  const hash = createHash('sha256')
  for (const p of parts) hash.update(p)
  return hash.digest()
}

export const base64url = bytes => Buffer.from(bytes).toString('base64url')

// fromBase64url decodes canonical base64url without padding, of n bytes where n
// is given; everything else is null. Node's decoder takes nearly anything, so
// what it made is encoded again.
export function fromBase64url (text, n) {
  if (!/^[A-Za-z0-9_-]*$/.test(text)) return null
  const bytes = Buffer.from(text, 'base64url')
  if (n !== undefined && bytes.length !== n) return null
  return bytes.toString('base64url') === text ? bytes : null
}

export const digestOf = bytes => base64url(sha256(bytes))
export const isDigest = text => fromBase64url(text, 32) !== null
export const isID = text => fromBase64url(text, 16) !== null

const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'
const SHORT = '0123456789abcdefghjkmnpqrstvwxyz'

// bits regroups the bytes into groups of five bits and spells them.
function spell (bytes, alphabet) {
  let value = 0n
  for (const b of bytes) value = value << 8n | BigInt(b)
  const characters = Math.ceil(bytes.length * 8 / 5)
  value <<= BigInt(characters * 5 - bytes.length * 8)
  let text = ''
  for (let i = characters - 1; i >= 0; i--) text += alphabet[Number(value >> BigInt(5 * i) & 31n)]
  return text
}

function crc16 (bytes) {
  let crc = 0
  for (const b of bytes) {
    crc ^= b << 8
    for (let i = 0; i < 8; i++) crc = (crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1) & 0xffff
  }
  return crc
}

export const KINDS = { A: 0, U: 20 << 3, X: 23 << 3 }

// nkey spells a public key of a kind.
export function nkey (kind, raw) {
  const body = Buffer.concat([Buffer.from([KINDS[kind]]), raw])
  const sum = Buffer.alloc(2)
  sum.writeUInt16LE(crc16(body))
  return spell(Buffer.concat([body, sum]), BASE32)
}

// fromNkey returns the 32 bytes of a public key of the kind, or null.
export function fromNkey (kind, text) {
  if (typeof text !== 'string' || text.length !== 56) return null
  let value = 0n
  for (const c of text) {
    const digit = BASE32.indexOf(c)
    if (digit < 0) return null
    value = value << 5n | BigInt(digit)
  }
  const raw = Buffer.from(value.toString(16).padStart(70, '0'), 'hex').subarray(1, 33)
  return nkey(kind, raw) === text ? raw : null
}

// instanceOf is the short name of a public nkey.
export const instanceOf = text => spell(sha256(text).subarray(0, 5), SHORT)
export const isInstance = text => text.length === 8 && [...text].every(c => SHORT.includes(c))

export const isAgent = text => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text)

// number reads a decimal of at most 2^53 - 1, or gives null.
export function number (text) {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text)) return null
  const n = Number(text)
  return Number.isSafeInteger(n) ? n : null
}

const length = n => {
  const b = Buffer.alloc(4)
  b.writeUInt32BE(n)
  return b
}
export const count = length
export const item = bytes => {
  const b = Buffer.from(bytes)
  return Buffer.concat([length(b.length), b])
}
export const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))
