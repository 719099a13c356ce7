// node main.mjs envelope DIR     judges the vectors below DIR
// node main.mjs capability DIR   the same for chains
// node main.mjs trust DIR        the same for trust documents
// node main.mjs ed25519 FILE     the same for signatures alone
// node main.mjs sign             signs the messages that stdin asks for
//
// Verdicts and messages go to stdout, one JSON object a line. It exits with 1
// where a file cannot be read as a vector; whether verdicts are right is for
// whoever started it to say.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Key, formed, strict, verify as verifySignature } from './ed25519.mjs'
import { digestOf, nkey, Refusal } from './encoding.mjs'
import { sign } from './envelope.mjs'
import { Keyring, stands, verify } from './chain.mjs'
import { Reader, trust } from './keys.mjs'
import { Receiver } from './receiver.mjs'

const say = object => process.stdout.write(JSON.stringify(object) + '\n')

// files returns the vectors below a folder, sorted by path.
function files (folder, schema) {
  const out = []
  const walk = path => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const below = join(path, entry.name)
      if (entry.isDirectory()) walk(below)
      else if (entry.name.endsWith('.json')) out.push(JSON.parse(readFileSync(below, 'utf8')))
    }
  }
  walk(folder)
  const vectors = out.filter(v => v.schema === schema)
  if (vectors.length === 0) throw new Error(`no vector of ${schema} in ${folder}`)
  return vectors
}

// verdict is what judging said.
function verdict (name, judge) {
  try {
    return { name, accept: judge() }
  } catch (e) {
    if (!(e instanceof Refusal)) throw e
    return { name, refuse: e.code, detail: e.message }
  }
}

// reader has read the lists of a vector, of which only the last may be refused.
function reader (v) {
  const r = new Reader(v.roots, v.certificates)
  const lists = v.lists ?? []
  lists.forEach((list, i) => {
    try {
      r.take(list)
    } catch (e) {
      throw i < lists.length - 1 ? new Error(`${v.name}: list ${i + 1}: ${e.message}`) : e
    }
  })
  return r
}

const received = m => ({ subject: m.subject, reply: m.reply, headers: m.headers, payload: Buffer.concat([Buffer.from(m.payload, 'base64'), Buffer.alloc(m.payload_zeros ?? 0)]) })

const modes = {
  envelope (folder) {
    const shared = JSON.parse(readFileSync(join(folder, 'shared', 'authority.json'), 'utf8'))
    const keyring = new Keyring(shared.roots, shared.certificates)
    const chains = new Map(shared.chains.map(text => [digestOf(text), text]))
    for (const v of files(folder, 'sealmesh.envelope-vector/v1')) {
      const receiver = new Receiver(v, keyring, chains)
      for (const b of v.before ?? []) receiver.judge(received(b.message), b.now)
      say(verdict(v.name, () => receiver.judge(received(v.message), v.receiver.now)))
    }
  },
  capability (folder) {
    for (const v of files(folder, 'sealmesh.capability-vector/v1')) {
      say(verdict(v.name, () => {
        const chain = verify(v.chain, reader(v).keyring, v.now)
        if (v.presenter && chain.holder !== v.presenter) throw new Refusal('not-holder', 'T12')
        if (v.directory) stands(chain, v.directory, v.directory.at || v.now)
        const { holders, delegations, ...accept } = chain
        return accept
      }))
    }
  },
  trust (folder) {
    for (const v of files(folder, 'sealmesh.trust-vector/v1')) {
      say(verdict(v.name, () => trust(v.trust, reader(v).roots, v.trust_domain)))
    }
  },
  ed25519 (file) {
    const bytes = hex => Buffer.from(hex, 'hex')
    for (const c of JSON.parse(readFileSync(file, 'utf8')).cases) {
      const [key, signature] = [bytes(c.key), bytes(c.signature)]
      say({ name: c.name, key: strict(key), form: formed(signature), verifies: verifySignature(key, bytes(c.message), signature) })
    }
  },
  sign () {
    for (const line of readFileSync(0, 'utf8').split('\n').filter(l => l !== '')) {
      const r = JSON.parse(line)
      const key = new Key(Buffer.from(r.seed, 'hex'))
      const { message, digest } = sign(r.trust_domain, key, nkey('U', key.raw), r.subject, r.fields, r.headers ?? [], Buffer.from(r.payload, 'base64'), r.request ? Buffer.from(r.request, 'base64url') : null)
      say({ name: r.name, key: nkey('U', key.raw), digest: digest.toString('base64url'), message })
    }
  }
}

const [mode, ...rest] = process.argv.slice(2)
if (!Object.hasOwn(modes, mode ?? '')) throw new Error(`no mode ${mode}`)
modes[mode](...rest)
