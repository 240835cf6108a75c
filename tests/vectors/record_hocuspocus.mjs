/**
 * Records what the providers of Hocuspocus, y-sweet and y-partyserver say, and what
 * Hocuspocus' server answers, into hocuspocus.json beside this file.
 *
 *   (cd ../interop && npm ci) && (cd ../../benchmarks/peers && npm ci)
 *   node record_hocuspocus.mjs > hocuspocus.json
 */
import { once } from 'node:events'
import { createRequire } from 'node:module'

const interop = createRequire(new URL('../interop/package.json', import.meta.url))
const peers = createRequire(new URL('../../benchmarks/peers/package.json', import.meta.url))
const Y = interop('yjs')
const encoding = interop('lib0/encoding')
const sync = interop('y-protocols/sync')
const WebSocket = interop('ws')

const hex = bytes => Buffer.from(bytes).toString('hex')
const bytes = text => new Uint8Array(Buffer.from(text, 'hex'))
const settled = () => new Promise(resolve => setTimeout(resolve, 20))
const doc = clientID => Object.assign(new Y.Doc(), { clientID })
const written = (...steps) => {
  const encoder = encoding.createEncoder()
  for (const step of steps) step(encoder)
  return hex(encoding.toUint8Array(encoder))
}
const prefix = address => address && written(e => encoding.writeVarString(e, address))

/** A socket that goes nowhere: `sent` is what a provider said, `url` where. */
function makeSocket () {
  const record = { sent: [] }
  record.WebSocket = class {
    static OPEN = 1
    OPEN = 1
    readyState = 1
    listeners = {}
    constructor (url) { record.url = url; record.socket = this }
    addEventListener (name, listener) { this.listeners[name] = listener }
    removeEventListener () {}
    send (data) { record.sent.push(typeof data === 'string' ? data : hex(data)) }
    close () {}
    fire (name, event) { (this.listeners[name] ?? this[`on${name}`])?.(event) }
  }
  record.open = () => record.socket.fire('open', {})
  record.hear = text => record.socket.fire('message', { data: bytes(text).buffer })
  /** What was said since this was asked. */
  record.take = () => record.sent.splice(0)
  return record
}

const step1 = written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep1(e, doc(9)))
const step2 = written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep2(e, doc(9)))

/** What a provider of Hocuspocus says, by what happens to it. */
async function provide (version, options = {}) {
  const { HocuspocusProvider, HocuspocusProviderWebsocket } = interop(`@hocuspocus/provider-${version}`)
  const record = makeSocket()
  const WebSocketPolyfill = record.WebSocket
  const shared = version > 1 && new HocuspocusProviderWebsocket({ url: 'ws://host/ws', WebSocketPolyfill })
  const place = version > 1 ? { websocketProvider: shared } : { url: 'ws://host/ws', WebSocketPolyfill }
  const { sessionId, ...rest } = options
  const provider = new HocuspocusProvider({ ...place, name: 'd', document: doc(1), broadcast: false, ...rest })
  if (sessionId) provider.sessionId = sessionId
  if (version > 2) provider.attach()
  const address = version > 1 ? prefix(provider.effectiveName ?? 'd') : ''
  const said = {}
  record.open()
  await settled()
  said.open = record.take()
  const admitted = version > 1
    ? written(e => encoding.writeVarUint(e, 2), e => encoding.writeVarUint(e, 2), e => encoding.writeVarString(e, 'read-write'))
    : '0202'
  record.hear(address + admitted)
  await settled()
  said.admitted = record.take()
  record.hear(address + step1)
  record.hear(address + step2)
  said.asked = record.take()
  const text = provider.document.getText('t')
  text.insert(0, 'A')
  text.insert(1, 'é😀')
  text.delete(0, 1)
  said.edits = record.take()
  if (provider.awareness) {
    provider.awareness.setLocalStateField('user', { name: 'Zoë 😀' })
    provider.awareness.setLocalState(null)
    provider.awareness.setLocalState({ back: true })
  }
  said.presence = record.take()
  record.hear(address + '03')
  said.query = record.take()
  provider.sendStateless('hi 😀')
  said.stateless = record.take()
  provider.forceSync()
  said.forced = record.take()
  if (version > 2) {
    record.hear(address + '0200')
    await settled()
    said.token_wanted = record.take()
  }
  if (version > 3) {
    record.hear('09')
    said.ping = record.take()
  }
  provider.destroy()
  said.destroy = record.take()
  shared && shared.destroy()
  return said
}

const vectors = { providers: {}, with_token: {}, without_awareness: {} }
for (const version of [1, 2, 3, 4]) {
  vectors.providers[version] = await provide(version)
  vectors.with_token[version] = await provide(version, { token: 'tök' })
  if (version > 1) vectors.without_awareness[version] = await provide(version, { awareness: null })
}
vectors.session = await provide(4, { sessionAwareness: true, sessionId: 'k3j9x2m4q7z' })

// y-sweet: its sync status, a query, and what it says of itself.
{
  const { createYjsProvider } = interop('@y-sweet/client')
  const record = makeSocket()
  const document = doc(1)
  const token = { url: 'ws://host/ws', docId: 'd', token: 'tok' }
  const provider = createYjsProvider(document, 'd', async () => token, {
    WebSocketPolyfill: record.WebSocket, showDebuggerLink: false
  })
  await settled()
  const said = vectors.y_sweet = { url: record.url }
  record.open()
  said.open = record.take()
  record.hear(step2)
  document.getText('t').insert(0, 'A')
  said.edit = record.take()
  record.hear('03')
  said.query = record.take()
  record.socket.onclose = null
  provider.clearHeartbeat()
  provider.clearConnectionTimeout()
}

// y-partyserver: where it connects to, and an application's message.
{
  const { default: Provider } = interop('y-partyserver/provider')
  const record = makeSocket()
  const provider = new Provider('127.0.0.1:1', 'd', doc(1), {
    prefix: '/ws/d', connectionId: 'me', params: { token: 'tok' }, WebSocketPolyfill: record.WebSocket
  })
  await settled()
  const said = vectors.y_partyserver = { url: record.url }
  record.open()
  said.open = record.take()
  provider.sendMessage('hi 😀')
  said.custom = record.take()
  provider.destroy()
}

// What the server of Hocuspocus answers to what version 4 says.
{
  const { Server } = peers('@hocuspocus/server')
  const connections = []
  const server = new Server({
    address: '127.0.0.1',
    port: 18427,
    quiet: true,
    stopOnSignals: false,
    async onAuthenticate ({ token, connectionConfig }) {
      if (token === 'nobody') throw Object.assign(new Error(), { reason: 'who are you? 😀' })
      connectionConfig.readOnly = token === 'reader'
    },
    async connected ({ connection }) { connections.push(connection) },
    async onStateless ({ document }) { document.broadcastStateless('all: hi 😀') }
  })
  await server.listen()
  const socket = new WebSocket('ws://127.0.0.1:18427')
  socket.binaryType = 'arraybuffer'
  const heard = []
  socket.on('message', data => heard.push(hex(data)))
  await once(socket, 'open')
  const answers = vectors.server = {}
  const say = async (name, ...frames) => {
    for (const frame of frames) socket.send(bytes(frame))
    for (let quiet = 0, count = heard.length; quiet < 10; quiet++, await settled()) {
      if (heard.length !== count) { count = heard.length; quiet = 0 }
    }
    answers[name] = heard.splice(0)
  }
  const auth = (name, token) => prefix(name) + written(
    e => encoding.writeVarUint(e, 2), e => encoding.writeVarUint(e, 0),
    e => encoding.writeVarString(e, token), e => encoding.writeVarString(e, '4.8.0'))
  const mine = vectors.providers[4]
  await say('open', ...mine.open)
  await say('answer', ...mine.asked)
  await say('edits', ...mine.edits)
  await say('presence', mine.presence[0])
  await say('stateless', ...mine.stateless)
  connections[0].requestToken()
  await say('token_wanted')
  await say('leave', ...mine.destroy)
  await say('denied', auth('denied', 'nobody'))
  await say('reader', auth('reader', 'reader'))
  await say('refused', ...mine.edits.slice(0, 1).map(frame => prefix('reader') + frame.slice(prefix('d').length)))
  await say('session', ...vectors.session.open)
  socket.close()
  await server.destroy()
}

console.log(JSON.stringify(vectors, null, 2))
process.exit(0)
