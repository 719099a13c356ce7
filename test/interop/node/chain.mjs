// Capability chains. Comments name the rules of docs/spec/capability.md.

import { byBytes, digestOf, fromBase64url, fromNkey, isAgent, isDigest, isID, refuse } from './encoding.mjs'
import * as ed25519 from './ed25519.mjs'

const HEADER = 'eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ'
const LATEST = 253402300799n

const HEAD = [['kind', 'string'], ['iss', 'string'], ['iat', 'integer']]
const MEMBERS = {
  'signing-key': [...HEAD, ['nkey', 'string'], ['purpose', 'string'], ['nbf', 'integer'], ['exp', 'integer']],
  successor: [...HEAD, ['root', 'string']],
  trust: [...HEAD, ['trust_domain', 'string'], ['version', 'integer'], ['infra', 'strings'], ['agent', 'strings', 'optional']],
  passport: [...HEAD, ['agent', 'string'], ['nkey', 'string'], ['curve', 'string']],
  token: [...HEAD, ['jti', 'string'], ['agent', 'string'], ['parent', 'string', 'optional'], ['capabilities', 'strings'], ['delegatable', 'strings'], ['depth', 'integer'], ['nbf', 'integer'], ['exp', 'integer']]
}

// quote writes a string as D4 wants it.
const SHORT_ESCAPES = { '"': '\\"', '\\': '\\\\', '\b': '\\b', '\f': '\\f', '\n': '\\n', '\r': '\\r', '\t': '\\t' }
const quote = s => '"' + s.replace(/["\\\u0000-\u001f\u2028\u2029]/g, c => SHORT_ESCAPES[c] ?? '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0')) + '"'

const write = (type, value) => type === 'string' ? quote(value) : type === 'integer' ? value.toString() : '[' + value.map(quote).join(',') + ']'

// decode reads a document of a kind: D7, D1 to D6.
export function decode (text, kind) {
  const bad = why => refuse('bad-token', why)
  if (Buffer.byteLength(text) > 32768) refuse('too-large', 'D7')
  const parts = text.split('.')
  if (parts.length !== 3) bad('D3')
  if (parts[0] !== HEADER) bad('D1')
  const payload = fromBase64url(parts[1])
  const signature = fromBase64url(parts[2], 64)
  if (payload === null || signature === null) bad('D2, D3')
  const json = payload.toString('utf8')
  let object
  try {
    object = JSON.parse(json)
  } catch {
    bad('D4')
  }
  if (object === null || typeof object !== 'object' || Array.isArray(object)) bad('D4')
  if (object.kind !== kind) refuse('wrong-kind', 'D5')

  // What is read is written again, and must be the same bytes. JSON has no exact
  // integers in this language: they are taken from the text.
  const doc = { text, signature, signed: Buffer.from(parts[0] + '.' + parts[1]) }
  const written = []
  for (const [name, type, optional] of MEMBERS[kind]) {
    let value = object[name]
    if (value === undefined && optional) continue
    if (type === 'string' && (typeof value !== 'string' || (optional && value === ''))) bad(`D4: ${name}`)
    if (type === 'strings' && (!(Array.isArray(value) && value.every(s => typeof s === 'string')) || (optional && value.length === 0))) bad(`D4: ${name}`)
    if (type === 'integer') {
      const m = new RegExp(`[{,]"${name}":(0|-?[1-9][0-9]{0,18})[,}]`).exec(json)
      if (typeof value !== 'number' || !m) bad(`D4: ${name}`)
      value = BigInt(m[1])
      if (BigInt.asIntN(64, value) !== value) bad(`D4: ${name}`)
    }
    doc[name] = value
    written.push(quote(name) + ':' + write(type, value))
  }
  if (!Buffer.from('{' + written.join(',') + '}').equals(payload)) bad('D4')
  return doc
}

// checkKey refuses what is no public key of the kind: D6.
export function checkKey (kind, text) {
  const raw = fromNkey(kind, text)
  if (raw === null || !ed25519.strict(raw)) refuse('bad-token', 'D6')
}

// signedBy reports whether the key that a document names signed it. Who is named
// equals a key that was checked: a pinned root, a certified key, or a passport's.
export function signedBy (doc) {
  const raw = fromNkey('A', doc.iss) ?? fromNkey('U', doc.iss)
  return raw !== null && ed25519.verify(raw, doc.signed, doc.signature)
}

const OWN_VERBS = ['handle', 'publish', 'subscribe', 'admin', 'self']
const SEGMENT = /^[a-z0-9][a-z0-9_-]*$/

// checkScope refuses what is no scope: G1 to G4.
function checkScope (text) {
  if (/[*>]/.test(text)) refuse('wildcard-scope', 'G2')
  const words = text.split(':')
  if (words.some((w, i) => w.split('.').some(s => s === 'all' || s === 'any'))) refuse('wildcard-scope', 'G2')
  if (Buffer.byteLength(text) > 160) refuse('bad-scope', 'G4')
  const verb = words.shift()
  const resource = (r, most) => {
    const segments = r.split('.')
    return segments.length <= most && segments.every(s => SEGMENT.test(s))
  }
  const ordinary = w => w.length === 2 && /^[a-z][a-z0-9-]*$/.test(w[0]) && !OWN_VERBS.includes(w[0]) && resource(w[1], 8)
  let good
  switch (verb) {
    case 'handle': good = ordinary(words); break
    case 'publish': case 'subscribe': good = words.length === 1 && resource(words[0], 8); break
    case 'admin': case 'self': good = words.length === 1 && resource(words[0], 1); break
    default: good = ordinary([verb, ...words])
  }
  if (!good) refuse('bad-scope', 'G1')
}

const window = doc => { if (!(doc.nbf > 0n && doc.nbf < doc.exp && doc.exp <= LATEST)) refuse('bad-token', 'window') }

// checkCertificate refuses what a certificate alone can have: K1 and K3.
export function checkCertificate (doc) {
  checkKey('A', doc.nkey)
  if (doc.purpose !== 'tokens' && doc.purpose !== 'records') refuse('bad-token', 'K1')
  window(doc)
  if (doc.nkey === doc.iss) refuse('bad-token', 'K3')
}

// Keyring are the signing keys that pinned roots certify: K0 to K5.
export class Keyring {
  #certificates = []

  constructor (roots, certificates) {
    const pinned = new Set(roots)
    if (roots.length === 0) refuse('bad-input', 'K0')
    for (const root of roots) {
      const raw = fromNkey('A', root)
      if (raw === null || !ed25519.strict(raw)) refuse('bad-input', 'K0')
    }
    for (const text of certificates) {
      const doc = decode(text, 'signing-key')
      checkCertificate(doc)
      if (pinned.has(doc.nkey)) refuse('bad-token', 'K3')
      if (!pinned.has(doc.iss)) refuse('unknown-signer', 'K2')
      if (!signedBy(doc)) refuse('bad-signature', 'K2')
      if (this.#certificates.some(c => c.nkey === doc.nkey && c.purpose !== doc.purpose)) refuse('bad-token', 'K4')
      this.#certificates.push(doc)
    }
  }

  // until returns when the certificates of a signer end, of which one counts now.
  until (doc, purpose, now) {
    const own = this.#certificates.filter(c => c.nkey === doc.iss && c.purpose === purpose)
    if (!own.some(c => c.nbf <= now && now < c.exp)) refuse('unknown-signer', 'K5')
    return own.filter(c => c.nbf <= now && now < c.exp).reduce((latest, c) => c.exp > latest ? c.exp : latest, 0n)
  }
}

function passport (text) {
  const doc = decode(text, 'passport')
  if (!isAgent(doc.agent)) refuse('bad-token', 'P1')
  checkKey('U', doc.nkey)
  if (fromNkey('X', doc.curve) === null) refuse('bad-token', 'P1')
  return doc
}

function checkSet (list) {
  if (list.length > 256) refuse('too-large', 'T6')
  list.forEach((scope, i) => {
    if (scope.startsWith('self:')) refuse('bad-scope', 'T6')
    if (i > 0 && byBytes(list[i - 1], scope) >= 0) refuse('bad-token', 'T6')
  })
}

function token (text) {
  const doc = decode(text, 'token')
  for (const scope of [...doc.capabilities, ...doc.delegatable]) checkScope(scope) // T1
  if (!isID(doc.jti) || !isAgent(doc.agent) || (doc.parent !== undefined && !isDigest(doc.parent))) refuse('bad-token', 'T2')
  if (['control', 'sealmesh', 'sys'].includes(doc.agent)) refuse('reserved-name', 'T3')
  window(doc)
  if (doc.capabilities.length === 0) refuse('bad-token', 'T5')
  checkSet(doc.capabilities)
  checkSet(doc.delegatable)
  for (const scope of doc.delegatable) {
    if (!doc.capabilities.includes(scope)) refuse('beyond-own', 'T7')
    if (scope.startsWith('admin:')) refuse('not-delegatable', 'T8')
  }
  if (doc.depth < 0n) refuse('bad-token', 'T9')
  if (doc.depth > 8n) refuse('depth-exceeded', 'T10')
  if (doc.depth === 0n && doc.delegatable.length > 0) refuse('depth-exceeded', 'T11')
  doc.digest = digestOf(text)
  return doc
}

// verify returns what a chain grants, at a time in Unix seconds.
export function verify (text, keyring, seconds) {
  const now = BigInt(seconds)
  if (Buffer.byteLength(text) > 65536) refuse('too-large', 'C0')
  const documents = text.split('~')
  if (documents.length > 17) refuse('depth-exceeded', 'C2')
  if (documents.length % 2 === 0) refuse('broken-chain', 'C1')

  const tokens = [token(documents[0])]
  const passports = []
  if (tokens[0].parent !== undefined) refuse('broken-chain', 'C3')
  for (let i = 1; i < documents.length; i += 2) {
    const before = passport(documents[i])
    const parent = tokens.at(-1)
    const next = token(documents[i + 1])
    if (tokens.some(t => t.agent === next.agent)) refuse('delegation-cycle', 'C10')
    if (before.agent !== parent.agent) refuse('not-holder', 'C4')
    if (next.iss !== before.nkey) refuse('broken-chain', 'C5')
    if (next.parent !== parent.digest) refuse('broken-chain', 'C6')
    if (parent.depth === 0n || next.depth >= parent.depth) refuse('depth-exceeded', 'C7')
    for (const scope of next.capabilities) {
      if (parent.delegatable.includes(scope)) continue
      refuse(parent.capabilities.includes(scope) ? 'not-delegatable' : 'beyond-own', 'C8')
    }
    if (next.nbf < parent.nbf || next.exp > parent.exp) refuse('beyond-window', 'C9')
    passports.push(before)
    tokens.push(next)
  }

  const last = tokens.at(-1)
  if (now < last.nbf) refuse('token-not-yet-valid', 'V1')
  if (now >= last.exp) refuse('token-expired', 'V1')
  let expires = last.exp
  const check = (doc, purpose) => {
    if (purpose) {
      const end = keyring.until(doc, purpose, now)
      if (end < expires) expires = end
    }
    if (!signedBy(doc)) refuse('bad-signature', 'V2')
  }
  check(tokens[0], 'tokens')
  passports.forEach((p, i) => {
    check(p, 'records')
    check(tokens[i + 1])
  })
  return {
    holder: last.agent,
    scopes: last.capabilities,
    delegatable: last.delegatable,
    depth: Number(last.depth),
    not_before: Number(last.nbf),
    expires: Number(expires),
    digest: digestOf(text),
    tokens: tokens.map(t => t.digest),
    holders: tokens.map(t => t.agent),
    delegations: passports.map((p, i) => ({ issuer: p.agent, nkey: p.nkey, token: tokens[i + 1].digest }))
  }
}

// stands asks the directory whether a chain still counts: S1 to S6.
export function stands (chain, directory, seconds) {
  if (seconds < chain.not_before) refuse('token-not-yet-valid', 'S1')
  if (seconds >= chain.expires) refuse('token-expired', 'S1')
  const record = name => {
    if (directory.unreadable?.includes(name)) refuse('registry-unavailable', 'S6')
    return directory.agents.find(a => a.agent === name)
  }
  for (const name of chain.holders) {
    if (record(name)?.status !== 'active') refuse('delegator-cut', 'S2')
  }
  if (!record(chain.holders[0]).live?.includes(chain.tokens[0])) refuse('token-taken-back', 'S3')
  for (const d of chain.delegations) {
    const instance = directory.instances.find(i => i.agent === d.issuer && i.nkey === d.nkey)
    if (instance === undefined || instance.state === 'revoked') refuse('delegator-cut', 'S4')
    if (record(d.issuer).voided?.includes(d.token)) refuse('token-taken-back', 'S5')
  }
}
