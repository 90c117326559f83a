// Peer records on the coordination branch, as docs/discovery.md describes them: written by git's plumbing, without a checkout.
import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { peerIdFromString } from '@libp2p/peer-id'
import { publicKeyToProtobuf } from '@libp2p/crypto/keys'

const FOLDER = '.sudocode/coordination/peers/'
const PREFIX = 'sudocode-coordination peer record 1\n'
const MAX_RECORD_BYTES = 16384
const TRIES = 20

const sorted = (value) => {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]))
}

const ascii = (text) => text.replace(/[\u0080-\uffff]/g, (unit) => '\\u' + unit.charCodeAt(0).toString(16).padStart(4, '0'))

// What the signature of a record is over.
const signed = (record) => {
  const { signature, ...ext } = record.ext
  return Buffer.from(PREFIX + ascii(JSON.stringify(sorted({ ...record, ext }))))
}

export const makeRecord = async (key, peerId, agentId, ttl) => {
  const record = {
    agentId,
    multiaddrs: [],
    publicKey: Buffer.from(publicKeyToProtobuf(key.publicKey)).toString('base64'),
    capabilities: ['r\u00e9ader'],
    lastSeen: new Date().toISOString(),
    ttl,
    ext: { v: 1, peerId }
  }
  record.ext.signature = Buffer.from(await key.sign(signed(record))).toString('base64')
  return record
}

const readRecord = async (name, text) => {
  if (text.length > MAX_RECORD_BYTES) return null
  try {
    const record = JSON.parse(text)
    const key = peerIdFromString(record.ext.peerId).publicKey
    const sound = name === `agent-${record.agentId}.json` &&
      record.publicKey === Buffer.from(publicKeyToProtobuf(key)).toString('base64') &&
      await key.verify(signed(record), Buffer.from(record.ext.signature, 'base64'))
    return sound ? record : null
  } catch {
    return null // whatever is no record is nobody
  }
}

export class Branch {
  constructor (repository, remote, name) {
    this.repository = repository
    this.remote = remote
    this.ref = `refs/heads/${name}`
    this.tip = null
  }

  git (args, { input, env } = {}) {
    return execFileSync('git', args, {
      cwd: this.repository, input, env: { ...process.env, ...env }, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe']
    }).trim()
  }

  fetch () {
    const listed = this.git(['ls-remote', this.remote, this.ref])
    this.tip = listed === '' ? null : listed.split('\t')[0]
    if (this.tip !== null) this.git(['fetch', '--quiet', '--no-tags', this.remote, this.tip])
  }

  // The records that count, of all agents.
  async read () {
    this.fetch()
    if (this.tip === null) return []
    const names = this.git(['ls-tree', '--name-only', `${this.tip}:${FOLDER}`]).split('\n')
    const records = names.map((name) => readRecord(name, this.git(['show', `${this.tip}:${FOLDER}${name}`])))
    return (await Promise.all(records)).filter((record) => record !== null)
  }

  // Put the agent's record there, or (null) take it away. Who loses a race reads again and tries again.
  write (agentId, record) {
    for (let left = TRIES; ; left--) {
      this.fetch()
      const env = { GIT_INDEX_FILE: join(this.git(['rev-parse', '--absolute-git-dir']), `peer-${process.pid}.index`) }
      const path = `${FOLDER}agent-${agentId}.json`
      this.git(this.tip === null ? ['read-tree', '--empty'] : ['read-tree', this.tip], { env })
      if (record === null) {
        this.git(['update-index', '--force-remove', path], { env })
      } else {
        const blob = this.git(['hash-object', '-w', '--stdin'], { input: JSON.stringify(record) })
        this.git(['update-index', '--add', '--cacheinfo', `100644,${blob},${path}`], { env })
      }
      const tree = this.git(['write-tree'], { env })
      rmSync(env.GIT_INDEX_FILE, { force: true })
      const parents = this.tip === null ? [] : ['-p', this.tip]
      const commit = this.git(['commit-tree', ...parents, '-m', `peer ${agentId}`, tree])
      try {
        this.git(['push', '--quiet', `--force-with-lease=${this.ref}:${this.tip ?? ''}`, this.remote, `${commit}:${this.ref}`])
        return
      } catch (error) {
        if (left === 0) throw error
      }
    }
  }
}
