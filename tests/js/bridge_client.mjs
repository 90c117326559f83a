// One client of `coord bridge`: yjs and y-websocket as they come from npm. It is told what to do by lines of JSON on standard
// input, and says what happens by lines of JSON on standard output. The first line has {url, room, token} of bridge.json, and
// what a test wants to be wrong with them.
import { createInterface } from 'node:readline'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n')
const doc = new Y.Doc()
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const next = async () => JSON.parse((await lines.next()).value ?? '{"do": "end"}')
const { url, room, token, headers = {} } = await next()

class Socket extends WebSocket {
  constructor (address, protocols) {
    super(address, protocols, { headers })
    this.on('unexpected-response', (_request, response) => {
      say({ refused: response.statusCode })
      this.terminate()
    })
  }
}

const ROOTS = ['activeWork', 'issueUpdates', 'specUpdates', 'leases', 'leaseHistory', 'fileDiffs', 'agentMetadata', 'messages']
const roots = ROOTS.map((name) => [name, doc.getMap(name)])
const content = () => Object.fromEntries(roots.map(([name, map]) => [name, map.toJSON()]))

// y-websocket shows what was refused to developers this way.
console.warn = (text) => say({ denied: text })
const provider = new WebsocketProvider(url, room, doc, {
  params: { token },
  WebSocketPolyfill: Socket,
  disableBc: true,
  maxBackoffTime: 200
})
provider.on('sync', (synced) => say({ synced, content: content() }))
provider.on('status', ({ status }) => say({ status }))
provider.on('closed', ({ code, reason }) => say({ closed: code, reason }))
provider.awareness.on('change', () => say({ awareness: [...provider.awareness.getStates()] }))
doc.on('update', (_update, origin) => { if (origin === provider) say({ content: content() }) })

for (;;) {
  const { do: what, root, key, value, state } = await next()
  if (what === 'write') doc.getMap(root).set(key, value)
  else if (what === 'content') say({ content: content(), asked: true })
  else if (what === 'state') provider.awareness.setLocalState(state)
  else break
}
provider.destroy()
doc.destroy()
