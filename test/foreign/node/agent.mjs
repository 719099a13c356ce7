// A stock NATS client for Node.js that connects as an agent, by nothing but the
// context file in its directory, and does what it is told:
//
//   node agent.mjs MODULES CONTEXT DOMAIN STEP…
//
//   sub:SUBJECT        subscribes
//   pub:SUBJECT=TEXT   publishes
//   ask:SUBJECT=TEXT   makes a request and waits a second for the answer
//   wait:N             until N messages came
//   every:SUBJECT      publishes a number there ten times a second, for ever
//   stay               for ever
//
// It prints a JSON object a line: connected, message, refused, status, answer, closed.
// Of messages with an envelope it says whether the signature is that of the key in it.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { parse, signedBytes } from '../../interop/node/envelope.mjs'
import { verify } from '../../interop/node/ed25519.mjs'

const [modules, file, domain, ...steps] = process.argv.slice(2)
const { connect, nkeyAuthenticator } = createRequire(modules + '/')('@nats-io/transport-node')
const say = o => process.stdout.write(JSON.stringify(o) + '\n')
const context = JSON.parse(readFileSync(file, 'utf8'))
const rest = (s, n) => [s.slice(0, n), s.slice(n + 1)]

// signed reports whether a message is what the key in its envelope signed.
function signed (m) {
  const headers = [...m.headers ?? []].flatMap(([name, values]) => values.map(v => [name, v]))
  if (!headers.some(h => h[0] === 'Mesh-Envelope')) return undefined
  try {
    const c = parse({ subject: m.subject, headers, payload: Buffer.from(m.data) })
    return { from: c.fields.from, key: c.fields.key, good: verify(c.key, signedBytes(domain, m.subject, c.text, c.payload, null), c.signature) }
  } catch (e) {
    return { good: false, error: String(e.message) }
  }
}

let came = 0
let more = () => {}
let nc
try {
  nc = await connect({
    servers: context.url.split(','),
    authenticator: nkeyAuthenticator(new TextEncoder().encode(readFileSync(context.nkey, 'utf8').trim())),
    inboxPrefix: context.inbox_prefix,
    tls: { certFile: context.cert || undefined, keyFile: context.key || undefined, caFile: context.ca },
    timeout: 12000,
    maxReconnectAttempts: -1,
    ignoreAuthErrorAbort: true,
    reconnectTimeWait: 200
  })
} catch (e) {
  say({ refused: `${e.name}: ${e.message}` })
  process.exit(3)
}
say({ connected: nc.info.client_id })
nc.closed().then(e => { say({ closed: e ? e.message : '' }); process.exit(e ? 3 : 0) });
(async () => {
  for await (const s of nc.status()) say(s.error ? { refused: s.error.message } : { status: s.type })
})()

for (const step of steps) {
  const [verb, argument] = rest(step, step.indexOf(':') < 0 ? step.length : step.indexOf(':'))
  const [subject, text] = rest(argument, argument.indexOf('=') < 0 ? argument.length : argument.indexOf('='))
  if (verb === 'sub') {
    nc.subscribe(subject, {
      callback: (err, m) => {
        if (err) return
        say({ message: m.subject, text: m.string(), signed: signed(m) })
        came++
        more()
      }
    })
    await nc.flush()
    say({ subscribed: subject })
  } else if (verb === 'pub') {
    nc.publish(subject, text)
    await nc.flush()
  } else if (verb === 'ask') {
    try {
      say({ answer: (await nc.request(subject, text, { timeout: 1000 })).string() })
    } catch (e) {
      say({ answer: null, error: `${e.name}: ${e.message}` })
    }
  } else if (verb === 'wait') {
    while (came < Number(subject)) await new Promise(resolve => { more = resolve })
  } else if (verb === 'every') {
    for (let n = 1; ; n++) {
      try { nc.publish(subject, String(n)) } catch {}
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  } else if (verb === 'stay') {
    await new Promise(() => setInterval(() => {}, 1 << 30))
  } else {
    throw new Error(`no step ${verb}`)
  }
}
await nc.flush()
await new Promise(resolve => setTimeout(resolve, 200)) // refusals come behind
await nc.close()
