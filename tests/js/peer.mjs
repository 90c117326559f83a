// A peer that reads, written from docs/protocol.md and docs/discovery.md alone: libp2p with Noise, Yamux and GossipSub from npm.
// Its first line of standard input is JSON, {repository, remote, branch, agentId}; each further line is an envelope in base64, taken as
// if it came by gossip. It says what it sees by lines of JSON, and leaves when its standard input ends.
import './node18.mjs'
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { decode, encode } from '@msgpack/msgpack'
import * as Y from 'yjs'
import { Branch, makeRecord } from './branch.mjs'

const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { generateKeyPair } = await import('@libp2p/crypto/keys')
const { gossipsub } = await import('@libp2p/gossipsub')
const { identify } = await import('@libp2p/identify')
const { peerIdFromPrivateKey, peerIdFromString } = await import('@libp2p/peer-id')
const { tcp } = await import('@libp2p/tcp')
const { multiaddr } = await import('@multiformats/multiaddr')
const { createLibp2p } = await import('libp2p')

const SYNC = '/sudocode/sync/1.0.0'
const TOPICS = ['sudocode/sync', 'sudocode/presence']
const OPEN = 1
const ACCEPT = 2
const PROBE = 0xffffffff
const MAX_FRAME_BYTES = 1 << 20
const MAX_UPDATE_BYTES = 64 << 10
const TTL_MS = 900000
const BEAT_MS = 15000
const EXCHANGE_MS = 30000
const KNOCK_MS = 500
const LOOK_MS = 5000

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n')
const lines = createInterface({ input: process.stdin })
const input = lines[Symbol.asyncIterator]()
const { repository, remote, branch: branchName, agentId } = JSON.parse((await input.next()).value)

const key = await generateKeyPair('Ed25519')
const me = peerIdFromPrivateKey(key).toString()
const incarnation = Date.now()

const domain = (text) => Buffer.from(text + '\0')
const verify = (peer, data, signature) => peerIdFromString(peer).publicKey.verify(data, signature)

// --- feeds: for each owner one document of its newest whole epoch, and maybe one that is not whole yet ------------------------

const current = new Map()
const staged = new Map()

const newest = (owner) => staged.get(owner) ?? current.get(owner)
const heads = () => [...new Set([...current.keys(), ...staged.keys()])].map((owner) => [owner, newest(owner).epoch, newest(owner).seq])

// Takes one envelope; false if it comes too early.
const take = async (envelope) => {
  const [owner, epoch, seq, parts, update, signature] = envelope
  if (owner === me || update.length > MAX_UPDATE_BYTES) return true
  const covered = Buffer.concat([domain('sudocode-coordination/envelope/1'), encode([owner, epoch, seq, parts, update])])
  if (!await verify(owner, covered, signature)) throw new Error(`an envelope of ${owner} is forged`)
  let feed = newest(owner)
  if (feed === undefined || epoch > feed.epoch) {
    feed = { epoch, seq: 0, parts, doc: new Y.Doc() }
    staged.set(owner, feed)
  }
  if (epoch < feed.epoch || seq <= feed.seq) return true
  if (seq > feed.seq + 1) return false
  Y.applyUpdate(feed.doc, update)
  feed.seq = seq
  if (staged.get(owner) === feed && seq >= feed.parts) {
    staged.delete(owner)
    current.set(owner, feed)
  }
  return true
}

const entries = (root) => [...current].flatMap(([owner, { doc }]) =>
  [...doc.getMap(root)].filter(([name]) => name.startsWith(owner + '/')))

let shown = ''
const show = () => {
  const leases = entries('leases').filter(([, lease]) => lease.state === 'granted')
    .map(([name, { agent, resources, mode, priority, ttlMs, note = '' }]) => ({ name, agent, resources, mode, priority, ttlMs, note }))
    .sort((one, other) => one.name < other.name ? -1 : 1)
  const text = JSON.stringify({ leases, work: Object.fromEntries(entries('activeWork')) })
  if (text !== shown) say(JSON.parse(shown = text))
}

// --- one link --------------------------------------------------------------------------------------------------------------

const instance = randomBytes(8)
let hellos = 0n
const links = new Map()

const helloBytes = (kind) => {
  const body = Buffer.alloc(23)
  body.write('SCSY')
  body[4] = 1
  body[5] = kind
  instance.copy(body, 6)
  body.writeBigUInt64BE(++hellos, 14)
  body[22] = 1
  return Buffer.concat([Buffer.from([0, 0, 0, body.length]), body])
}

class Link {
  constructor (peer, stream) {
    this.peer = peer
    this.stream = stream
    this.buffer = Buffer.alloc(0)
    this.greeted = false
    this.work = Promise.resolve()
    this.ended = new Promise((resolve) => stream.addEventListener('close', resolve))
    stream.addEventListener('message', ({ data }) => {
      this.buffer = Buffer.concat([this.buffer, data.subarray()])
      // One after the other, whatever has to be waited for.
      this.work = this.work.then(() => this.read()).catch((error) => {
        say({ error: String(error) })
        stream.abort(error)
      })
    })
    stream.send(helloBytes(OPEN))
  }

  sendFrame (frame) {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(frame.length)
    this.stream.send(Buffer.concat([length, frame]))
  }

  tell (...messages) {
    this.sendFrame(encode(messages))
  }

  async read () {
    while (this.buffer.length >= 4) {
      const length = this.buffer.readUInt32BE()
      if (length === PROBE && this.greeted) {
        this.buffer = this.buffer.subarray(4)
        this.sendFrame(Buffer.alloc(0))
        continue
      }
      if (length > MAX_FRAME_BYTES) throw new Error(`a frame of ${length} bytes`)
      if (this.buffer.length < 4 + length) return
      const body = this.buffer.subarray(4, 4 + length)
      this.buffer = this.buffer.subarray(4 + length)
      if (!this.greeted) this.greet(body)
      else if (length > 0) await this.frame(decode(body))
    }
  }

  greet (body) {
    if (body.toString('latin1', 0, 4) !== 'SCSY' || body[4] !== 1) throw new Error('not of this protocol')
    if (body[5] !== ACCEPT) throw new Error(`a hello of kind ${body[5]}`)
    this.greeted = true
    this.tell({ t: 'hello', version: 'peer.mjs', incarnation, heads: heads() })
    say({ connected: this.peer })
  }

  async frame (messages) {
    for (const message of messages) {
      switch (message.t) {
        case 'hello':
          say({ hello: message.version, incarnation: message.incarnation })
          break
        case 'env': {
          const early = []
          for (const envelope of message.envelopes ?? []) if (!await take(envelope)) early.push(envelope)
          if (early.length > 0) this.tell({ t: 'heads', heads: heads(), reply: true })
          show()
          break
        }
        case 'presence':
          if (message.pong === undefined) this.tell({ t: 'presence', incarnation, count: beats, pong: message.ping ?? 0 })
          break
        case 'claim':
          this.tell({ t: 'ack', id: message.claim[0], round: message.round, counts: false })
          break
        case 'renew':
          this.tell({ t: 'renewack', incarnation: message.incarnation, round: message.round, counts: false })
          break
        case 'sask': {
          const [kind, first] = message.op
          this.tell({ t: 'sanswer', id: kind === 'acquire' ? first[0] : first, reason: 'this peer only reads' })
          break
        }
      }
    }
  }
}

// --- the whole peer ----------------------------------------------------------------------------------------------------------

const host = await createLibp2p({
  privateKey: key,
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), pubsub: gossipsub() }
})
for (const topic of TOPICS) host.services.pubsub.subscribe(topic)
const hear = async (topic, data) => {
  try {
    if (topic === TOPICS[0]) {
      const envelope = decode(data)
      await take(envelope)
      say({ gossip: topic, of: envelope[0], epoch: envelope[1], seq: envelope[2] })
      show()
    } else {
      const [peer, payload, signature] = decode(data)
      const sound = await verify(peer, Buffer.concat([domain('sudocode-coordination/presence/1'), payload]), signature)
      if (sound) say({ gossip: topic, of: peer, beat: decode(payload) })
    }
  } catch (error) {
    say({ error: String(error) })
  }
}
host.services.pubsub.addEventListener('message', ({ detail: { topic, data } }) => hear(topic, data))

const branch = new Branch(repository, remote, branchName)
branch.write(agentId, await makeRecord(key, me, agentId, TTL_MS))
say({ peer: me })

let beats = 0
let leaving = false
const timers = [
  setInterval(() => {
    beats++
    for (const link of links.values()) link.tell({ t: 'presence', incarnation, count: beats, ping: beats })
  }, BEAT_MS),
  setInterval(() => {
    const linked = [...links.values()]
    if (linked.length > 0) linked[Math.floor(Math.random() * linked.length)].tell({ t: 'heads', heads: heads(), reply: true })
  }, EXCHANGE_MS)
]

const known = new Map()

const stay = async (peerId) => {
  while (!leaving) {
    for (const address of known.get(peerId).filter((text) => /^\/ip4\/[^/]+\/tcp\/\d+$/.test(text))) {
      try {
        const stream = await host.dialProtocol(multiaddr(`${address}/p2p/${peerId}`), SYNC)
        const link = new Link(peerId, stream)
        links.set(peerId, link)
        await link.ended
      } catch (error) {
        say({ refused: String(error) })
      }
      links.delete(peerId)
    }
    await new Promise((resolve) => setTimeout(resolve, KNOCK_MS))
  }
}

// Who is there, and where, again and again: others come later, or come back on another port.
const look = async () => {
  while (!leaving) {
    for (const { multiaddrs, ext: { peerId } } of await branch.read()) {
      if (peerId === me) continue
      const first = !known.has(peerId)
      known.set(peerId, multiaddrs)
      if (first) stay(peerId)
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
  }
}
look().catch((error) => say({ error: String(error) }))

for await (const line of lines) await hear(TOPICS[0], Buffer.from(line, 'base64')) // until it ends
leaving = true
timers.forEach(clearInterval)
for (const link of links.values()) link.tell({ t: 'bye' })
branch.write(agentId, null)
await host.stop()
say({ left: true })
process.exit()
