/**
 * Records what the JavaScript of the field says, into yjs.json beside this file.
 *
 * In a folder of its own, so that these packages are nobody's dependency:
 *   npm install yjs@13.6.33 y-protocols@1.0.7 y-websocket@3.1.0 lib0@0.2.120
 *   cp record.mjs . && node record.mjs > yjs.json
 */
import * as Y from 'yjs'
import * as encoding from 'lib0/encoding'
import * as sync from 'y-protocols/sync'
import * as awarenessProtocol from 'y-protocols/awareness'
import { WebsocketProvider } from 'y-websocket'

const hex = bytes => Buffer.from(bytes).toString('hex')
const written = (...steps) => {
  const encoder = encoding.createEncoder()
  for (const step of steps) step(encoder)
  return hex(encoding.toUint8Array(encoder))
}
const doc = clientID => Object.assign(new Y.Doc(), { clientID })
const vectors = {}

// What a y-websocket client sends: a socket that only listens.
const provider = new WebsocketProvider('ws://localhost', 'd', doc(1), {
  disableBc: true,
  WebSocketPolyfill: class {
    OPEN = 1
    readyState = 1
    constructor () { vectors.client = []; globalThis.socket = this }
    send (data) { vectors.client.push(hex(data)) }
    close () {}
  }
})
socket.onopen()
const hear = text => socket.onmessage({ data: new Uint8Array(Buffer.from(text, 'hex')).buffer })
const text = provider.doc.getText('t')
hear(written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep1(e, doc(9)))) // answered by step 2
text.insert(0, 'A')
text.insert(1, 'é😀')
text.delete(0, 1)
provider.awareness.setLocalStateField('user', { name: 'Zoë 😀' })
provider.awareness.setLocalState(null)
hear('03') // query

// What a server says, as y-protocols writes it.
const ours = doc(7)
ours.getText('t').insert(0, 'x'.repeat(200))
vectors.server = {
  step1: written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep1(e, ours)),
  step2: written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep2(e, ours)),
  update: written(e => encoding.writeVarUint(e, 0), e => sync.writeUpdate(e, Y.encodeStateAsUpdate(ours))),
  empty_step1: written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep1(e, doc(3))),
  empty_step2: written(e => encoding.writeVarUint(e, 0), e => sync.writeSyncStep2(e, doc(3)))
}
vectors.update = hex(Y.encodeStateAsUpdate(ours))
vectors.state_vector = hex(Y.encodeStateVector(ours))

// Presence: announced, renewed, changed, gone; and two at once.
const one = new awarenessProtocol.Awareness(doc(1))
const two = new awarenessProtocol.Awareness(doc(300))
const states = []
const note = () => states.push(hex(awarenessProtocol.encodeAwarenessUpdate(one, [1])))
note()
one.setLocalStateField('cursor', 1); note()
one.setLocalState(one.getLocalState()); note()
one.setLocalState(null); note()
one.setLocalState({ name: 'é"\ud800' }); note()
two.setLocalState({ a: [1, null, { b: 1e21 }] })
awarenessProtocol.applyAwarenessUpdate(two, awarenessProtocol.encodeAwarenessUpdate(one, [1]), 'x')
states.push(hex(awarenessProtocol.encodeAwarenessUpdate(two, [300, 1])))
vectors.presence = states

// Integers at their borders.
vectors.uints = Object.fromEntries(
  [0, 1, 127, 128, 300, 16383, 16384, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 49, 2 ** 53 - 1]
    .map(n => [n, written(e => encoding.writeVarUint(e, n))]))
vectors.strings = Object.fromEntries(
  ['', 'a', 'é', '😀', 'x'.repeat(128)].map(s => [s, written(e => encoding.writeVarString(e, s))]))

// Histories: the updates in the order of writing, and the text they end in.
const history = write => {
  const updates = []
  const clients = [doc(1), doc(2)]
  for (const client of clients) {
    client.on('update', (update, origin) => {
      if (origin === 'heard') return
      updates.push(hex(update))
      for (const other of clients) if (other !== client) Y.applyUpdate(other, update, 'heard')
    })
  }
  write(...clients.map(client => client.getText('t')), ...clients)
  return { updates, text: clients[0].getText('t').toString() }
}
vectors.histories = {
  reorder: history(a => {
    a.insert(0, 'a'); a.insert(1, 'x'); a.insert(2, 'c')
    a.doc.transact(() => { a.delete(1, 1); a.insert(1, 'b') })
  }),
  pending: history((a, b) => {
    a.insert(0, 'abc'); a.insert(3, 'def')
    b.insert(6, 'XYZ'); b.delete(0, 1)
  }),
  drift: history(a => {
    a.insert(0, 'a😀b'); a.delete(0, 2); a.insert(a.length, 'NEXT'); a.insert(a.length, '!')
  }),
  within: history((a, b) => {
    a.insert(0, '😀'); b.insert(1, '-'); a.insert(a.length, 'end')
  }),
  answers: history((a, b) => {
    a.insert(0, 'a'); b.insert(1, 'b'); a.insert(2, 'c'); b.insert(3, 'd'); a.delete(0, 2)
  })
}
console.log(JSON.stringify(vectors, null, 2))
process.exit(0)
