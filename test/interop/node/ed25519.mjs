// Ed25519 as section 6 of the envelope's specification wants it: what the
// platform's library leaves open is checked beside it.

import { createPrivateKey, createPublicKey, sign as signBytes, verify as verifyBytes } from 'node:crypto'

const P = (1n << 255n) - 19n
const L = (1n << 252n) + 27742317777372353535851937790883648493n

const little = bytes => BigInt('0x' + Buffer.from(bytes).reverse().toString('hex'))

const ORDER_EIGHT = little(Buffer.from('26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05', 'hex'))
const SMALL = [0n, 1n, P - 1n, ORDER_EIGHT, P - ORDER_EIGHT]

// strict reports whether 32 bytes encode a point canonically, and not one of
// small order. Whether there is such a point is left to the library.
export function strict (encoded) {
  const y = little(encoded) & ((1n << 255n) - 1n)
  return y < P && !SMALL.includes(y)
}

// formed reports whether 64 bytes are a signature in its one encoding.
export const formed = signature => strict(signature.subarray(0, 32)) && little(signature.subarray(32)) < L

// verify reports whether the signature is that of the key over the bytes.
export function verify (raw, bytes, signature) {
  if (!strict(raw) || signature.length !== 64 || !formed(signature)) return false
  const key = createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(raw).toString('base64url') } })
  return verifyBytes(null, bytes, key, signature)
}

// Key signs with the key of a seed.
export class Key {
  #private
  constructor (seed) {
    const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
    this.#private = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    this.raw = Buffer.from(createPublicKey(this.#private).export({ format: 'jwk' }).x, 'base64url')
  }

  sign (bytes) { return signBytes(null, bytes, this.#private) }
}
