// One receiver: the steps of section 8 of docs/spec/envelope.md, in their order.

import { base64url, fromBase64url, instanceOf, isAgent, isInstance, number, refuse, sha256 } from './encoding.mjs'
import * as ed25519 from './ed25519.mjs'
import { covered, epoch, parse, part, promise, signedBytes } from './envelope.mjs'
import { stands, verify } from './chain.mjs'

const tokenOK = t => /^[!-)+-\-/-=?-~]+$/.test(t) // printable ASCII without space . * >

// place takes a subject apart: R1.
function place (subject, prefix) {
  const bad = () => refuse('wrong-subject', 'R1')
  const tokens = subject.split('.')
  if (tokens.shift() !== prefix) bad()
  const [kind, sender, ...rest] = tokens
  if (sender === undefined || !isAgent(sender)) bad()
  const p = { class: kind, sender, tail: '' }
  const recipient = () => {
    p.recipient = rest.shift()
    if (p.recipient === undefined || !isAgent(p.recipient)) bad()
  }
  const instance = () => {
    p.instance = rest.shift()
    if (p.instance === undefined || !isInstance(p.instance)) bad()
  }
  switch (kind) {
    case 'call': case 'event': break
    case 'ask': recipient(); break
    case 'note': recipient(); if (rest.length !== 1) bad(); break
    case 'beat': case 'audit': instance(); if (rest.length !== 0) bad(); return p
    case 'reply': case 'body': recipient(); instance(); if (rest.length !== 1 || !tokenOK(rest[0])) bad(); p.nonce = rest[0]; return p
    default: bad()
  }
  if (rest.length === 0 || !rest.every(tokenOK)) bad()
  p.tail = rest.join('.')
  return p
}

// delivery reads the acknowledgement subject of a stored message: E2.
function delivery (reply, consumer) {
  const bad = () => refuse('foreign-delivery', 'E2')
  const tokens = (reply ?? '').split('.')
  if (tokens.shift() !== '$JS' || tokens.shift() !== 'ACK') bad()
  if (tokens.length === 9) {
    if (!tokenOK(tokens.shift()) || !tokenOK(tokens.shift())) bad() // domain and account
  }
  if (tokens.length !== 7 || tokens.shift() !== 'MESH_EVENTS' || tokens.shift() !== consumer) bad()
  if (!tokens.every(t => /^(0|[1-9][0-9]{0,19})$/.test(t))) bad()
  const [delivered, sequence, own, time, pending] = tokens.map(BigInt)
  if ([delivered, sequence, own, time].includes(0n) || time >= 1n << 63n) bad()
  if ([delivered, sequence, own, pending].some(n => n >= 1n << 64n)) bad()
  return { delivered, sequence, time }
}

// Memory holds used nonces by sender: N1, N2, N5, N6.
class Memory {
  #senders = new Map()
  #dropped = -Infinity
  #count = 0

  constructor (most, perSender) {
    this.most = most || Infinity
    this.perSender = perSender || Infinity
  }

  #expire (now) {
    for (const nonces of this.#senders.values()) {
      for (const [nonce, expiry] of nonces) {
        if (now <= expiry) continue
        nonces.delete(nonce)
        this.#count--
        this.#dropped = Math.max(this.#dropped, expiry)
      }
    }
  }

  seen (sender, nonce, expiry) {
    if (this.#senders.get(sender)?.has(nonce)) refuse('replayed', 'N1')
    if (expiry <= this.#dropped) refuse('stale', 'N5')
  }

  use (sender, nonce, expiry, now) {
    this.#expire(now)
    this.seen(sender, nonce, expiry)
    if (this.#count >= this.most) refuse('replay-unavailable', 'N6')
    const nonces = this.#senders.get(sender) ?? new Map()
    if (nonces.size >= this.perSender) refuse('quota-exceeded', 'N6')
    this.#senders.set(sender, nonces.set(nonce, expiry))
    this.#count++
  }
}

export class Receiver {
  #stream = { next: 1, done: false, size: 0, content: [] }
  #acknowledged = new Map() // of stored messages: sender and nonce, and under which sequence

  // of is a vector; keyring and chains are those of shared/authority.json.
  constructor (of, keyring, chains) {
    Object.assign(this, { domain: of.trust_domain, config: of.receiver, subscription: of.subscription, directory: of.directory, keyring, chains })
    this.memory = new Memory(of.receiver.nonces, of.receiver.nonces_per_sender)
    this.burnt = new Set((of.receiver.burnt ?? []).map(b => [b.tail, b.agent, b.nonce].join(' ')))
  }

  // judge accepts a message at a time of the receiver's clock, or throws a Refusal.
  judge (message, now) {
    const { config, subscription, directory } = this
    const claim = parse(message) // steps 1 and 2
    const f = claim.fields
    const ts = number(f.ts)

    // Step 3.
    const at = place(claim.subject, config.prefix)
    if (at.sender !== f.from) refuse('sender-mismatch', 'R2')
    if ((at.class === 'reply' || at.class === 'body') && at.nonce !== f.parent) refuse('wrong-subject', 'R3')
    if ((at.class === 'beat' || at.class === 'audit') && at.instance !== instanceOf(f.key)) refuse('sender-mismatch', 'R3')
    if (at.class !== subscription.class || at.tail !== (subscription.tail ?? '')) refuse('wrong-subject', 'R4')
    if (at.recipient !== undefined && at.recipient !== config.agent) refuse('wrong-subject', 'R4')
    if (subscription.from && f.from !== subscription.from) refuse('wrong-responder', 'R5')

    const { stored } = subscription
    if (!stored && (message.reply ?? '').startsWith('$JS.ACK.')) refuse('foreign-delivery', 'E1')
    const pulled = stored ? delivery(message.reply, stored.consumer) : null

    // Step 4.
    if (pulled) this.#fresh(message, ts, pulled.time, now)
    else {
      if (now - ts > config.past) refuse('stale', 'T1')
      if (ts - now > config.ahead) refuse('future', 'T2')
      if (f.dl !== undefined && now - ts >= number(f.dl)) refuse('deadline', 'T3')
    }

    // Steps 5 and 6.
    if (directory.unreadable?.includes(f.from)) refuse('registry-unavailable', 'D7')
    const agent = directory.agents.find(a => a.agent === f.from)
    if (agent === undefined) refuse('unlisted-agent', 'D1')
    if (agent.status !== 'active') refuse(agent.status, 'D2')
    const instance = directory.instances.find(i => i.agent === f.from && i.nkey === f.key)
    if (instance === undefined) refuse('unlisted-key', 'D3')
    if (instance.state === 'expired' || instance.state === 'revoked') refuse(instance.state, 'D4')
    if (instance.since !== agent.since) refuse('revoked', 'D4')
    const ep = epoch(f.ep)
    if (ep.agent !== agent.epoch || ep.instance !== instance.epoch) refuse('stale-epoch', 'D5')

    // Step 7.
    const shared = at.class === 'call' || at.class === 'ask'
    const expiry = ts + config.past + config.ahead
    const entry = [f.from, f.nonce].join(' ')
    if (pulled) {
      const before = this.#acknowledged.get(entry)
      if (before !== undefined && before !== pulled.sequence) refuse('replayed', 'E7')
    } else {
      if (shared && ts < (config.replay_since ?? 0)) refuse('stale', 'N3')
      if (ts < config.started - 2000 && !shared) refuse('stale', 'N4')
      this.memory.seen(f.from, f.nonce, expiry)
    }

    // Step 8. The key is the record's: its nkey was compared above.
    const request = subscription.request ? fromBase64url(subscription.request, 32) : null
    if (claim.answers && (request === null || request.every(b => b === 0))) refuse('unmatched-reply', 'B2')
    if (!claim.answers && request !== null) refuse('wrong-subject', 'B2')
    const signed = signedBytes(this.domain, claim.subject, claim.text, claim.payload, claim.answers ? request : null)
    if (!ed25519.verify(claim.key, signed, claim.signature)) refuse('bad-signature', 'B6')
    const headers = covered(claim)

    // Step 9.
    if (subscription.scope) {
      if (f.tok === undefined) refuse('no-token', 'C1')
      const right = pulled ? Number(pulled.time / 1000000n) : now // E8
      this.#authorise(f.tok, f.from, right)
      if (f.ob !== undefined) f.ob.split('.').forEach(digest => this.#authorise(digest, null, right))
    }

    // Steps 10 and 11. A vector's stored messages are acknowledged at once.
    if (pulled) this.#acknowledged.set(entry, pulled.sequence)
    else this.memory.use(f.from, f.nonce, expiry, now)
    if (shared) {
      const key = [at.tail, entry].join(' ')
      if (config.shared_store_down) refuse('replay-unavailable', 'N7')
      if (this.burnt.has(key)) refuse('replayed', 'N7')
      this.burnt.add(key)
    }

    // Step 12.
    if (at.class === 'reply') this.#place(f, claim.payload)
    if (at.class === 'body') this.#body(f, claim.payload)

    const accepted = { from: f.from, instance: instanceOf(f.key), fields: f, headers }
    if (pulled) {
      accepted.stored = { sequence: Number(pulled.sequence), time: String(pulled.time) }
      if (pulled.delivered > 1n) accepted.stored.redelivered = true
    } else if (f.dl !== undefined) accepted.remaining = Math.min(number(f.dl), number(f.dl) - (now - ts))
    accepted.signed = signed.toString('base64')
    accepted.digest = base64url(sha256(signed))
    return accepted
  }

  // C1 and C2: one chain, held by the holder or, where that is null, by anybody.
  #authorise (digest, holder, now) {
    const text = this.chains.get(digest)
    if (text === undefined) refuse('unknown-chain')
    const seconds = Math.floor(now / 1000)
    const chain = verify(text, this.keyring, seconds)
    if (holder !== null && chain.holder !== holder) refuse('not-holder')
    if (!chain.scopes.includes(this.subscription.scope)) refuse('scope-not-held')
    stands(chain, this.directory, seconds)
  }

  // E3 to E5. Times of the stream are in nanoseconds.
  #fresh (message, ts, time, now) {
    const { config, subscription: { stored } } = this
    const nanos = ms => BigInt(ms) * 1000000n
    if (!message.headers.some(h => h[0] === 'Nats-Msg-Id')) refuse('bad-envelope', 'E3')
    if (time - nanos(ts) > nanos(config.past)) refuse('stale', 'E4')
    if (nanos(ts) - time > nanos(config.ahead)) refuse('future', 'E4')
    if (stored.max_age <= 0 || nanos(now) - time > nanos(stored.max_age + 30000)) refuse('stale', 'E5')
    if (time - nanos(now) > nanos(config.ahead)) refuse('future', 'E5')
  }

  // Q3 and Q4.
  #body (f, payload) {
    const broken = why => refuse('broken-stream', why)
    const p = part(f.part)
    const s = this.#stream
    if (s.done || p.number !== s.next || f.key !== this.subscription.key) broken('Q3')
    const { size, digest } = promise(this.subscription.body ?? '') ?? { size: 0, digest: '' }
    const content = [...s.content, payload]
    if (s.size + payload.length > size) broken('Q4')
    if (p.last && (s.size + payload.length !== size || base64url(sha256(...content)) !== digest)) broken('Q4')
    this.#stream = { next: s.next + 1, done: p.last, size: s.size + payload.length, content }
  }

  // P1, P2 and P5.
  #place (f, payload) {
    const broken = why => refuse('broken-stream', why)
    const p = f.part === undefined ? null : part(f.part)
    if (!this.subscription.stream) {
      if (p !== null && !(p.number === 1 && p.last)) broken('P2')
      return
    }
    const s = this.#stream
    if (s.done || p === null || p.number !== s.next) broken('P1')
    if (s.next > 1 && (f.key !== s.key || f.parent !== s.parent)) broken('P1')
    if (p.more && payload.length === 0) broken('P5')
    this.#stream = { next: s.next + 1, done: p.last, key: f.key, parent: f.parent }
  }
}
