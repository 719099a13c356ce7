// Published lists of signing keys and trust documents. Comments name the rules of
// docs/spec/capability.md.

import { X509Certificate } from 'node:crypto'
import { checkCertificate, checkKey, decode, Keyring, signedBy } from './chain.mjs'
import { digestOf, fromBase64url, refuse, Refusal } from './encoding.mjs'

// Reader begins with its pinned roots and certificates, and takes lists over.
export class Reader {
  #certificates
  #gone = new Set()
  #newest

  constructor (roots, certificates) {
    this.keyring = new Keyring(roots, certificates)
    this.roots = roots
    this.#certificates = certificates
    this.#newest = latest(certificates.map(text => decode(text, 'signing-key')))
  }

  take (list) {
    if (Buffer.byteLength(list) > 65536) refuse('bad-record', 'K8')
    const words = []
    const certificates = []
    for (const text of list.split('~')) {
      const doc = wordOrCertificate(text)
      if (doc.kind === 'successor') words.push(doc)
      else certificates.push(doc)
    }
    const roots = [...this.roots]
    for (;;) {
      const i = words.findIndex(w => roots.includes(w.iss))
      if (i < 0) break
      const [word] = words.splice(i, 1)
      if (!signedBy(word)) refuse('bad-signature', 'K7')
      roots[roots.indexOf(word.iss)] = word.root
    }
    const left = certificates.filter(c => roots.includes(c.iss))
    const texts = left.map(c => c.text)
    const keyring = new Keyring(roots, texts)
    if (left.length === 0) refuse('bad-record', 'K8')
    const newest = latest(left)
    if (newest < this.#newest || texts.some(text => this.#gone.has(text))) refuse('bad-record', 'K9')
    for (const text of this.#certificates) if (!texts.includes(text)) this.#gone.add(text)
    this.roots = roots
    this.keyring = keyring
    this.#certificates = texts
    this.#newest = newest
  }
}

const latest = certificates => certificates.reduce((most, c) => c.iat > most ? c.iat : most, 0n)

function wordOrCertificate (text) {
  let word
  try {
    word = decode(text, 'successor')
  } catch (e) {
    if (!(e instanceof Refusal) || e.code !== 'wrong-kind') throw e
    const certificate = decode(text, 'signing-key')
    checkCertificate(certificate)
    return certificate
  }
  checkKey('A', word.iss)
  checkKey('A', word.root)
  if (word.iss === word.root) refuse('bad-token', 'K8')
  return word
}

// trust reads a trust document: R1 and R2.
export function trust (text, roots, domain) {
  const doc = decode(text, 'trust')
  if (!roots.includes(doc.iss)) refuse('unknown-signer', 'R1')
  if (!signedBy(doc)) refuse('bad-signature', 'R1')
  if (doc.trust_domain !== domain || doc.version < 1n || doc.infra.length === 0) refuse('bad-token', 'R2')
  return { version: Number(doc.version), infra: rootsOf(doc.infra), agent: rootsOf(doc.agent ?? []) }
}

function rootsOf (list) {
  if (list.length > 8 || new Set(list).size < list.length) refuse('bad-token', 'R2')
  return list.map(entry => {
    const der = fromBase64url(entry)
    if (der === null) refuse('bad-token', 'R2')
    let certificate
    try {
      certificate = new X509Certificate(der)
    } catch {
      refuse('bad-token', 'R2')
    }
    // It reads PEM as well, and nothing of what follows a certificate.
    if (!certificate.raw.equals(der) || !certificate.ca) refuse('bad-token', 'R2')
    return digestOf(der)
  })
}
