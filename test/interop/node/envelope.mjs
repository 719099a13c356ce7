// The format: parsing, the bytes that are signed, signing. Comments name the
// rules of docs/spec/envelope.md.

import { base64url, byBytes, count, fromBase64url, fromNkey, isAgent, isDigest, isID, item, number, refuse, sha256 } from './encoding.mjs'
import * as ed25519 from './ed25519.mjs'

const FIELDS = [
  ['v', true, v => v === '1'],
  ['from', true, isAgent],
  ['key', true, v => fromNkey('U', v) !== null],
  ['ts', true, v => number(v) !== null],
  ['nonce', true, isID],
  ['corr', true, isID],
  ['parent', false, isID],
  ['ep', true, v => epoch(v) !== null],
  ['hop', true, v => number(v) !== null],
  ['tok', false, isDigest],
  ['ob', false, isBehalf],
  ['dl', false, v => number(v) !== null && number(v) >= 1 && number(v) <= 86400000],
  ['ct', false, v => /^[A-Za-z0-9._:/+-]{1,64}$/.test(v)],
  ['body', false, v => promise(v) !== null],
  ['enc', false, v => v === 'x1'],
  ['err', false, v => /^[a-z][a-z0-9-]{0,39}$/.test(v)],
  ['part', false, v => part(v) !== null],
  ['hd', false, isDigest]
]

function isBehalf (v) {
  const list = v.split('.')
  return list.length <= 8 && list.every(isDigest) && new Set(list).size === list.length
}

export function epoch (v) {
  const two = v.split('.').map(number)
  return two.length === 2 && !two.includes(null) ? { agent: two[0], instance: two[1] } : null
}

export function part (v) {
  const m = /^([0-9]+)(\/([0-9]+)|\+)?$/.exec(v)
  const n = m && number(m[1])
  if (!n || n > 1048576 || (m[3] !== undefined && m[3] !== m[1])) return null
  return { number: n, last: m[3] !== undefined, more: m[2] === '+' }
}

// promise is what body says of a payload that comes in parts.
export function promise (v) {
  const two = v.split('.')
  const size = number(two[0])
  return two.length === 2 && size >= 1 && size <= 67108864 && isDigest(two[1]) ? { size, digest: two[1] } : null
}

const lower = name => name.replace(/[A-Z]/g, c => c.toLowerCase())
const kindOf = name => {
  if (name === 'Mesh-Envelope' || name === 'Mesh-Signature') return 'own'
  const folded = lower(name)
  if (folded.startsWith('mesh-')) return 'foreign'
  if (folded.startsWith('nats-') || folded === 'traceparent' || folded === 'tracestate') return 'hint'
  return 'application'
}

// classOf is the second token of a subject of at least three.
const classOf = subject => {
  const tokens = subject.split('.')
  return tokens.length >= 3 ? tokens[1] : ''
}

// F5: the classes in which a field may stand.
const CLASSES = { err: ['reply'], enc: ['ask', 'reply'], body: ['call', 'ask'], part: ['reply', 'body'] }

// parse takes { subject, headers: [[name, value]…], payload } apart, or refuses.
export function parse (message) {
  const { subject, headers, payload } = message
  const values = name => headers.filter(h => h[0] === name).map(h => h[1])
  const [envelopes, signatures] = [values('Mesh-Envelope'), values('Mesh-Signature')]
  const size = text => Buffer.byteLength(text)
  const lines = kind => headers.filter(h => kindOf(h[0]) === kind)

  // Step 1.
  if (envelopes.length === 1 && size(envelopes[0]) > 1024) refuse('too-large', 'L1')
  if (signatures.length === 1 && size(signatures[0]) > 512) refuse('too-large', 'L2')
  if (size(subject) > 512) refuse('too-large', 'L3')
  if (payload.length > 8 << 20) refuse('too-large', 'L4')
  const application = lines('application')
  if (application.length > 32) refuse('too-large', 'L5')
  if (application.reduce((n, h) => n + size(h[0]) + size(h[1]), 0) > 8192) refuse('too-large', 'L5')
  if (lines('hint').length > 32) refuse('too-large', 'L6')
  if (new Set(headers.map(h => h[0])).size > 66) refuse('too-large', 'L7')

  // Step 2a.
  if (subject === '') refuse('bad-envelope', 'L3')
  if (envelopes.length !== 1 || signatures.length !== 1) refuse('bad-envelope', 'H1')
  if (lines('foreign').length > 0) refuse('bad-envelope', 'H2')
  const ids = headers.filter(h => lower(h[0]) === 'nats-msg-id')
  if (ids.length > 1 || ids.some(h => h[0] !== 'Nats-Msg-Id')) refuse('bad-envelope', 'H3')

  // Step 2b.
  const text = envelopes[0]
  const version = /^v=([0-9]+)(;|$)/.exec(text)
  if (!version || number(version[1]) === null) refuse('bad-envelope', 'F1')
  if (version[1] !== '1') refuse('bad-version', 'F1')

  // Step 2c.
  const fields = {}
  const pairs = text.split(';')
  for (const [name, required, good] of FIELDS) {
    if (pairs.length > 0 && pairs[0].startsWith(name + '=')) {
      fields[name] = pairs.shift().slice(name.length + 1)
      if (!good(fields[name])) refuse('bad-envelope', `F3: ${name}`)
    } else if (required) refuse('bad-envelope', `F2: no ${name}`)
  }
  if (pairs.length > 0) refuse('bad-envelope', 'F2: something else')
  const key = fromNkey('U', fields.key)
  if (!ed25519.strict(key)) refuse('bad-envelope', 'F4')
  const kind = classOf(subject)
  for (const [name, classes] of Object.entries(CLASSES)) {
    if (fields[name] !== undefined && !classes.includes(kind)) refuse('bad-envelope', `F5: ${name}`)
  }
  if (fields.body !== undefined && payload.length > 0) refuse('bad-envelope', 'F5: payload and body')
  if (kind === 'body' && (fields.part === undefined || part(fields.part).more)) refuse('bad-envelope', 'F5: part of a body')
  const answers = kind === 'reply' || kind === 'body'
  if (answers && fields.parent === undefined) refuse('bad-envelope', 'F5: no parent')
  if (ids.length === 1 && ids[0][1] !== fields.nonce) refuse('bad-envelope', 'H3')

  // Step 2d.
  if (number(fields.hop) > 16) refuse('loop', 'F6')

  // Step 2e.
  if (signatures[0].startsWith('batch:')) refuse('bad-version', 'B5')
  const signature = signatures[0].startsWith('ed25519:') ? fromBase64url(signatures[0].slice(8), 64) : null
  if (signature === null) refuse('bad-envelope', 'B4')
  if (!ed25519.formed(signature)) refuse('bad-signature', 'S1 to S3')

  return { subject, payload, text, fields, key, signature, application, answers }
}

// signedBytes are those of section 3; request is null for all but replies and bodies.
export function signedBytes (domain, subject, text, payload, request) {
  const items = [domain, subject, text, sha256(payload)]
  if (request !== null) items.push(request)
  return Buffer.concat([Buffer.from('sealmesh-envelope-v1\n'), ...items.map(item)])
}

const group = headers => {
  const byName = new Map()
  for (const [name, value] of headers) byName.set(name, [...(byName.get(name) ?? []), value])
  return [...byName.keys()].sort(byBytes).map(name => [name, byName.get(name)])
}

// headersDigest is hd.
export function headersDigest (headers) {
  const hashed = [Buffer.from('sealmesh-headers-v1\n')]
  for (const [name, values] of group(headers)) hashed.push(item(name), count(values.length), ...values.map(item))
  return base64url(sha256(...hashed))
}

const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/
const goodValue = v => !/[\u0000-\u0008\u000a-\u001f\u007f]/.test(v) && !/^[ \t]|[ \t]$/.test(v)

// covered returns the application headers that the signature answers for,
// sorted, or refuses.
export function covered (claim) {
  if (claim.fields.hd === undefined) return [] // A3
  const headers = claim.application
  if (headers.length === 0) refuse('bad-signature', 'A1')
  if (!headers.every(([name, value]) => TOKEN.test(name) && goodValue(value))) refuse('bad-envelope', 'A2')
  if (headersDigest(headers) !== claim.fields.hd) refuse('bad-signature', 'A1')
  return group(headers).flatMap(([name, values]) => values.map(v => [name, v]))
}

// sign makes a message. Fields are those of the envelope but v, key and hd.
export function sign (domain, key, nkey, subject, fields, headers, payload, request = null) {
  const all = { ...fields, v: '1', key: nkey }
  if (headers.length > 0) all.hd = headersDigest(headers)
  const text = FIELDS.filter(([name]) => all[name] !== undefined).map(([name]) => `${name}=${all[name]}`).join(';')
  const signed = signedBytes(domain, subject, text, payload, request)
  return {
    digest: sha256(signed),
    message: {
      subject,
      headers: [['Mesh-Envelope', text], ['Mesh-Signature', 'ed25519:' + base64url(key.sign(signed))], ...headers],
      payload: Buffer.from(payload).toString('base64')
    }
  }
}
