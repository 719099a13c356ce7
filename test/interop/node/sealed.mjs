// node sealed.mjs open DIR   opens the sealed payloads of the vectors below DIR
// node sealed.mjs seal       seals what stdin asks for
//
// Sealed payloads (docs/spec/sealed.md), with HPKE by RFC 9180 out of X25519,
// HMAC-SHA-256 and AES-256-GCM. Verdicts and payloads go to stdout, one JSON
// object a line, as those of main.mjs do.

import { createCipheriv, createDecipheriv, createHmac, createPrivateKey, createPublicKey, diffieHellman, randomBytes, timingSafeEqual } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Refusal, byBytes, count, fromNkey, isAgent, isID, item, refuse, sha256 } from './encoding.mjs'

const CODE = 'cannot-open'
const MOST = 64 * 1024 * 1024
const RECIPIENTS = 256
const [HEAD, STANZA, COMMITMENT, TAG] = [3, 112, 32, 16]
const PRIME = (1n << 255n) - 19n
const LABEL = 'sealmesh-sealed-v1\n'
const CONTENT = 'sealmesh-sealed-content-v1\n'

// --- X25519

const jwk = (x, d) => ({ kty: 'OKP', crv: 'X25519', x: x.toString('base64url'), ...(d && { d: d.toString('base64url') }) })
// Node asks for both halves of a private key; DER asks for the one alone.
const privateKey = raw => createPrivateKey({ key: Buffer.concat([Buffer.from('302e020100300506032b656e04220420', 'hex'), raw]), format: 'der', type: 'pkcs8' })
const publicKey = raw => createPublicKey({ key: jwk(raw), format: 'jwk' })

const little = bytes => BigInt('0x' + Buffer.from(bytes).reverse().toString('hex'))

// strict: the one encoding of a point that is not of small order (K2).
function strict (raw) {
  const u = little(raw)
  if (u >= PRIME || u <= 1n || u === PRIME - 1n) return false
  return u !== 325606250916557431795983626356110631294008115727848805560023387167927233504n &&
    u !== 39382357235489614581723060781553021112529911719440698176882885853963445705823n
}

function shared (key, point) {
  try {
    return diffieHellman({ privateKey: key, publicKey: publicKey(point) })
  } catch {
    return refuse(CODE, 'no shared point')
  }
}

const publicOf = key => Buffer.from(createPublicKey(key).export({ format: 'jwk' }).x, 'base64url')

// --- HKDF and HPKE: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode

const mac = (key, ...parts) => parts.reduce((h, p) => h.update(p), createHmac('sha256', key)).digest()
const extract = (salt, ikm) => mac(salt.length ? salt : Buffer.alloc(32), ikm)

function expand (prk, info, n) {
  let [out, last] = [Buffer.alloc(0), Buffer.alloc(0)]
  for (let i = 1; out.length < n; i++) {
    last = mac(prk, last, info, Buffer.from([i]))
    out = Buffer.concat([out, last])
  }
  return out.subarray(0, n)
}

const two = n => Buffer.from([n >> 8, n & 255])
const labeledExtract = (suite, salt, label, ikm) => extract(salt, Buffer.concat([Buffer.from('HPKE-v1'), suite, Buffer.from(label), ikm]))
const labeledExpand = (suite, prk, label, info, n) => expand(prk, Buffer.concat([two(n), Buffer.from('HPKE-v1'), suite, Buffer.from(label), info]), n)

const KEM = Buffer.concat([Buffer.from('KEM'), two(0x20)])
const SUITE = Buffer.concat([Buffer.from('HPKE'), two(0x20), two(1), two(2)])
const NONE = Buffer.alloc(0)

function wrapping (dh, enc, recipient, info) {
  const secret = labeledExpand(KEM, labeledExtract(KEM, NONE, 'eae_prk', dh), 'shared_secret', Buffer.concat([enc, recipient]), 32)
  const context = Buffer.concat([Buffer.from([0]), labeledExtract(SUITE, NONE, 'psk_id_hash', NONE), labeledExtract(SUITE, NONE, 'info_hash', info)])
  const prk = labeledExtract(SUITE, secret, 'secret', NONE)
  return { key: labeledExpand(SUITE, prk, 'key', context, 32), nonce: labeledExpand(SUITE, prk, 'base_nonce', context, 12) }
}

function encrypt (key, nonce, plain) {
  const c = createCipheriv('aes-256-gcm', key, nonce)
  return Buffer.concat([c.update(plain), c.final(), c.getAuthTag()])
}

function decrypt (key, nonce, sealed) {
  const c = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG })
  c.setAuthTag(sealed.subarray(sealed.length - TAG))
  const plain = c.update(sealed.subarray(0, sealed.length - TAG))
  try {
    c.final()
  } catch {
    return refuse(CODE, 'does not open')
  }
  return plain
}

// --- The binding (section 3) and the content's key (section 5)

function bound (b) {
  const reply = b.direction === 'reply'
  const piece = b.piece ?? 0
  const fits = reply ? piece >= 1 && piece <= 1048576 : b.direction === 'request' && piece === 0
  const domain = Buffer.from(b.trust_domain)
  if (!fits || domain.length < 1 || domain.length > 253 || !fromNkey('U', b.signer) || !isAgent(b.recipient) || !isID(b.nonce)) refuse(CODE, 'binding')
  return Buffer.concat([Buffer.from(LABEL), ...[domain, b.direction, b.signer, b.recipient, b.nonce].map(item), ...(reply ? [item(count(piece))] : [])])
}

function content (secret, binding, header) {
  const info = Buffer.concat([Buffer.from(CONTENT), item(binding), item(sha256(header))])
  const okm = expand(extract(NONE, secret), info, 64)
  return { key: okm.subarray(0, 32), commitment: okm.subarray(32) }
}

// --- The layout (section 2)

function parse (b) {
  if (b.length > MOST) refuse(CODE, 'L4')
  if (b.length < HEAD || b[0] !== 1) refuse(CODE, 'L1')
  const n = b.readUInt16BE(1)
  if (n < 1 || n > RECIPIENTS) refuse(CODE, 'L2')
  const end = HEAD + n * STANZA
  if (b.length < end + COMMITMENT + TAG) refuse(CODE, 'L4')
  const stanzas = Array.from({ length: n }, (_, i) => b.subarray(HEAD + i * STANZA, HEAD + (i + 1) * STANZA))
  for (let i = 1; i < n; i++) {
    if (Buffer.compare(stanzas[i - 1].subarray(0, 32), stanzas[i].subarray(0, 32)) >= 0) refuse(CODE, 'L3')
  }
  return { header: b.subarray(0, end), stanzas, commitment: b.subarray(end, end + COMMITMENT), content: b.subarray(end + COMMITMENT) }
}

export function open (key, b, payload) {
  const binding = bound(b)
  const s = parse(payload)
  const mine = publicOf(key)
  const stanza = s.stanzas.find(x => x.subarray(0, 32).equals(mine)) ?? refuse(CODE, 'L5')
  const enc = stanza.subarray(32, 64)
  if (!strict(enc)) refuse(CODE, 'W2')
  const w = wrapping(shared(key, enc), enc, mine, binding)
  const c = content(decrypt(w.key, w.nonce, stanza.subarray(64)), binding, s.header)
  if (!timingSafeEqual(c.commitment, s.commitment)) refuse(CODE, 'C1')
  return decrypt(c.key, Buffer.alloc(12), s.content)
}

export function seal (to, b, plain) {
  const binding = bound(b)
  const secret = randomBytes(32)
  const keys = to.map(text => fromNkey('X', text)).sort(byBytes)
  const stanzas = keys.map(recipient => {
    if (!strict(recipient)) throw new Error('nothing can be sealed to this key')
    const ephemeral = privateKey(randomBytes(32))
    const enc = publicOf(ephemeral)
    const w = wrapping(shared(ephemeral, recipient), enc, recipient, binding)
    return Buffer.concat([recipient, enc, encrypt(w.key, w.nonce, secret)])
  })
  const header = Buffer.concat([Buffer.from([1]), two(stanzas.length), ...stanzas])
  const c = content(secret, binding, header)
  return Buffer.concat([header, c.commitment, encrypt(c.key, Buffer.alloc(12), plain)])
}

// seed reads the private half of a curve key, "SX…": five bits of S, those of the
// kind, three bits of nothing, then the key and its checksum.
function seed (text) {
  const bits = [...text].map(c => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')).join('')
  const bytes = Buffer.from(bits.match(/.{8}/g).map(b => parseInt(b, 2)))
  if (!text.startsWith('SX') || bytes.length !== 36) throw new Error('no seed of a curve key')
  return privateKey(bytes.subarray(2, 34))
}

// --- Vectors

const SCHEMA = 'sealmesh.sealed-vector/v1'
const MEMBERS = ['schema', 'name', 'section', 'rule', 'description', 'key', 'binding', 'sealed', 'accept', 'refuse']
const say = object => process.stdout.write(JSON.stringify(object) + '\n')

const modes = {
  open (folder) {
    let n = 0
    const walk = path => {
      for (const entry of readdirSync(path, { withFileTypes: true })) {
        const below = join(path, entry.name)
        if (entry.isDirectory()) { walk(below); continue }
        if (!entry.name.endsWith('.json')) continue
        const v = JSON.parse(readFileSync(below, 'utf8'))
        if (v.schema !== SCHEMA || Object.keys(v).some(k => !MEMBERS.includes(k))) throw new Error(`${below} is no vector of ${SCHEMA}`)
        n++
        try {
          say({ name: v.name, accept: { plain: open(seed(v.key), v.binding, Buffer.from(v.sealed, 'base64')).toString('base64') } })
        } catch (e) {
          if (!(e instanceof Refusal)) throw e
          say({ name: v.name, refuse: e.code, detail: e.message })
        }
      }
    }
    walk(folder)
    if (n === 0) throw new Error(`no vector in ${folder}`)
  },
  seal () {
    for (const line of readFileSync(0, 'utf8').split('\n').filter(l => l !== '')) {
      const r = JSON.parse(line)
      if (r.to.some(text => fromNkey('X', text) === null)) throw new Error('no curve key')
      say({ name: r.name, sealed: seal(r.to, r.binding, Buffer.from(r.plain, 'base64')).toString('base64') })
    }
  }
}

const [mode, ...rest] = process.argv.slice(2)
if (!Object.hasOwn(modes, mode ?? '')) throw new Error(`no mode ${mode}`)
modes[mode](...rest)
