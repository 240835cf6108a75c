/**
 * Writes the frames of `collab.v1` with lib0's encoder, into native.json beside this file.
 *
 * Neither our server nor our client takes part: it is what both are tested against.
 * `data` stands as hexadecimal in `message`. In a folder of its own:
 *   npm install lib0@0.2.120 yjs@13.6.33 y-protocols@1.0.7
 *   cp native.mjs . && node native.mjs > native.json
 */
import * as encoding from 'lib0/encoding'
import * as Y from 'yjs'
import { Awareness, encodeAwarenessUpdate } from 'y-protocols/awareness'

const hex = bytes => Buffer.from(bytes).toString('hex')
const uint = encoding.writeVarUint
const text = encoding.writeVarString
const data = (encoder, value) => encoding.writeVarUint8Array(encoder, new Uint8Array(Buffer.from(value, 'hex')))
const flag = (encoder, value) => encoding.writeUint8(encoder, value ? 1 : 0)

const written = (...parts) => {
  const encoder = encoding.createEncoder()
  for (const [write, value] of parts) write(encoder, value)
  return hex(encoding.toUint8Array(encoder))
}

// From the specification: [kind, field: how it is written].
const grammar = {
  client: {
    Hello: [0, { client: text }],
    Ping: [1, { number: uint }],
    Open: [0, { name: text, token: text, vector: data, epoch: text, position: uint }],
    Close: [1, {}],
    Update: [2, { sequence: uint, update: data }],
    Presence: [3, { states: data }],
    Message: [4, { user: text, payload: data }],
    Token: [5, { token: text }],
    Identity: [2, { key: data }],
    Resume: [6, { name: text, token: text, vector: data, epoch: text, position: uint, known: data }]
  },
  server: {
    Welcome: [0, { version: uint, connection: text, heartbeat: uint, size: uint }],
    Pong: [1, { number: uint }],
    Reconnect: [2, { after: uint, window: uint }],
    Ended: [3, { code: uint, reason: text }],
    Opened: [0, { writable: flag, epoch: text, position: uint, size: uint, vector: data }],
    Closed: [1, { code: uint, reason: text }],
    Update: [2, { position: uint, update: data }],
    Presence: [3, { states: data }],
    Message: [4, { user: text, payload: data }],
    TokenWanted: [5, { seconds: uint }],
    Piece: [6, { update: data }],
    Synced: [7, { position: uint }],
    Saved: [8, { sequence: uint, position: uint }],
    Refused: [9, { sequence: uint, reason: text }],
    Access: [10, { writable: flag }],
    Question: [11, { vector: data }]
  }
}

const encode = (from, message) => {
  const [kind, fields] = grammar[from][message.type]
  return written([uint, message.channel], [uint, kind],
    ...Object.entries(fields).map(([field, write]) => [write, message[field]]))
}

const frames = []
const one = (from, name, message) => frames.push({ name, from, hex: encode(from, message), message })
const several = (from, name, messages, tail = '') =>
  frames.push({ name, from, hex: messages.map(message => encode(from, message)).join('') + tail, messages })

// What the messages carry, as Yjs and y-protocols write it.
const doc = Object.assign(new Y.Doc(), { clientID: 300 })
doc.getText('text').insert(0, 'Grüße 😀')
const update = hex(Y.encodeStateAsUpdate(doc))
const vector = hex(Y.encodeStateVector(doc))
const awareness = new Awareness(doc)
awareness.setLocalState({ user: { name: 'Zoë 😀' } })
const states = hex(encodeAwarenessUpdate(awareness, [300]))
awareness.destroy()
const gone = hex(encodeAwarenessUpdate(awareness, [300]))
const none = '00'
// Of whom somebody knows: clients, and their clocks.
const known = written([uint, 3], [uint, 300], [uint, 1], [uint, 0], [uint, 0], [uint, 2 ** 32 - 1], [uint, 70000])
const nothing = '0000'
const largest = 2 ** 53 - 1
const name = 'Ideen/💡 für morgen'

one('client', 'hello', { type: 'Hello', channel: 0, client: 'collab-client/0.1.0' })
one('client', 'hello without a name', { type: 'Hello', channel: 0, client: '' })
one('client', 'hello with a name that is not ASCII', { type: 'Hello', channel: 0, client: 'Größe/1 😀' })
for (const number of [0, 1, 127, 128, 16383, 16384, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 49, largest]) {
  one('client', `ping ${number}`, { type: 'Ping', channel: 0, number })
  one('server', `pong ${number}`, { type: 'Pong', channel: 0, number })
}
one('client', 'open something new', { type: 'Open', channel: 1, name: 'notes', token: '', vector: none, epoch: '', position: 0 })
one('client', 'open, come back', { type: 'Open', channel: 2, name, token: 'eyJhbGciOi.J9', vector, epoch: '8f0c', position: 1234567 })
one('client', 'open on a large channel', { type: 'Open', channel: largest, name: 'a', token: 't'.repeat(8192), vector: none, epoch: 'é', position: largest })
one('client', 'open without a name', { type: 'Open', channel: 1, name: '', token: '', vector: none, epoch: '', position: 0 })
one('client', 'close', { type: 'Close', channel: 1 })
one('client', 'close on a large channel', { type: 'Close', channel: 16384 })
one('client', 'update', { type: 'Update', channel: 1, sequence: 1, update })
one('client', 'update that is empty', { type: 'Update', channel: 128, sequence: 300, update: nothing })
one('client', 'update without an octet', { type: 'Update', channel: 1, sequence: largest, update: '' })
one('client', 'update of 200 octets', { type: 'Update', channel: 1, sequence: 2, update: 'ab'.repeat(200) })
one('client', 'presence', { type: 'Presence', channel: 1, states })
one('client', 'presence, gone', { type: 'Presence', channel: 1, states: gone })
one('client', 'presence of nobody', { type: 'Presence', channel: 1, states: none })
one('client', 'message for everybody', { type: 'Message', channel: 1, user: '', payload: hex(Buffer.from('{"emoji":"🎉"}')) })
one('client', 'message for one', { type: 'Message', channel: 1, user: 'zoë', payload: '00ff80' })
one('client', 'message without content', { type: 'Message', channel: 1, user: '', payload: '' })
one('client', 'token', { type: 'Token', channel: 1, token: 'eyJhbGciOi.J9' })
one('client', 'token that is empty', { type: 'Token', channel: 1, token: '' })
one('client', 'identity', { type: 'Identity', channel: 0, key: '00112233445566778899aabbccddeeff' })
one('client', 'identity of 64 octets', { type: 'Identity', channel: 0, key: 'f0'.repeat(64) })
one('client', 'resume', { type: 'Resume', channel: 2, name, token: 'eyJhbGciOi.J9', vector, epoch: '8f0c', position: 1234567, known })
one('client', 'resume, knowing nobody', { type: 'Resume', channel: largest, name: 'a', token: '', vector: none, epoch: '', position: 0, known: none })
several('client', 'the body of a request to listen', [
  { type: 'Hello', channel: 0, client: 'collab-client/0.1.0' },
  { type: 'Identity', channel: 0, key: '00112233445566778899aabbccddeeff' },
  { type: 'Open', channel: 1, name: 'notes', token: '', vector: none, epoch: '', position: 0 },
  { type: 'Resume', channel: 2, name, token: '', vector, epoch: '8f0c', position: 9, known }
])
several('client', 'the body of a push', [
  { type: 'Hello', channel: 0, client: '' },
  { type: 'Identity', channel: 0, key: 'a5'.repeat(16) },
  { type: 'Open', channel: 2, name, token: '', vector: none, epoch: '8f0c', position: 0 },
  { type: 'Update', channel: 2, sequence: 7, update },
  { type: 'Presence', channel: 2, states },
  { type: 'Close', channel: 2 }
])
several('client', 'hello and two documents', [
  { type: 'Hello', channel: 0, client: 'collab-client/0.1.0' },
  { type: 'Open', channel: 1, name: 'notes', token: '', vector: none, epoch: '', position: 0 },
  { type: 'Presence', channel: 1, states },
  { type: 'Open', channel: 2, name, token: '', vector, epoch: '8f0c', position: 9 },
  { type: 'Update', channel: 2, sequence: 1, update }
])
several('client', 'an unknown kind ends the frame', [{ type: 'Ping', channel: 0, number: 3 }], '010700ff')
several('client', 'an unknown kind of the connection', [], '0003')

one('server', 'welcome', { type: 'Welcome', channel: 0, version: 1, connection: 'c-81f3', heartbeat: 25000, size: 16777216 })
one('server', 'welcome at the borders', { type: 'Welcome', channel: 0, version: largest, connection: '', heartbeat: 0, size: largest })
one('server', 'reconnect', { type: 'Reconnect', channel: 0, after: 1000, window: 30000 })
one('server', 'reconnect at once', { type: 'Reconnect', channel: 0, after: 0, window: 0 })
one('server', 'ended', { type: 'Ended', channel: 0, code: 4503, reason: 'Später nochmal' })
one('server', 'ended without a reason', { type: 'Ended', channel: 0, code: 1012, reason: '' })
one('server', 'opened', { type: 'Opened', channel: 1, writable: true, epoch: '8f0c', position: 1234567, size: 245320, vector })
one('server', 'opened to read', { type: 'Opened', channel: 1, writable: false, epoch: '', position: 0, size: 0, vector: none })
one('server', 'closed', { type: 'Closed', channel: 1, code: 4403, reason: 'Kein Zugriff: «geheim»' })
one('server', 'closed without a reason', { type: 'Closed', channel: 300, code: 1000, reason: '' })
one('server', 'update', { type: 'Update', channel: 1, position: 8, update })
one('server', 'update without a position', { type: 'Update', channel: 1, position: 0, update: nothing })
one('server', 'update at the largest position', { type: 'Update', channel: 1, position: largest, update: '' })
one('server', 'presence', { type: 'Presence', channel: 1, states })
one('server', 'presence, gone', { type: 'Presence', channel: 1, states: gone })
one('server', 'message', { type: 'Message', channel: 1, user: 'zoë', payload: '00ff80' })
one('server', 'message of somebody unknown', { type: 'Message', channel: 1, user: '', payload: '' })
one('server', 'token wanted', { type: 'TokenWanted', channel: 1, seconds: 60 })
one('server', 'piece', { type: 'Piece', channel: 1, update })
one('server', 'piece of 16,400 octets', { type: 'Piece', channel: 1, update: '5a'.repeat(16400) })
one('server', 'synced', { type: 'Synced', channel: 1, position: 1234567 })
one('server', 'synced without a position', { type: 'Synced', channel: 128, position: 0 })
one('server', 'saved', { type: 'Saved', channel: 1, sequence: 17, position: 1234568 })
one('server', 'saved without a position', { type: 'Saved', channel: 1, sequence: largest, position: 0 })
one('server', 'refused', { type: 'Refused', channel: 1, sequence: 18, reason: 'You may read this document.' })
one('server', 'access to write', { type: 'Access', channel: 1, writable: true })
one('server', 'access to read', { type: 'Access', channel: 1, writable: false })
one('server', 'question', { type: 'Question', channel: 1, vector })
one('server', 'question of one who has nothing', { type: 'Question', channel: 1, vector: none })
several('server', 'an opening in one frame', [
  { type: 'Welcome', channel: 0, version: 1, connection: 'c', heartbeat: 25000, size: 16777216 },
  { type: 'Opened', channel: 1, writable: true, epoch: 'e', position: 3, size: update.length / 2, vector },
  { type: 'Presence', channel: 1, states },
  { type: 'Piece', channel: 1, update },
  { type: 'Synced', channel: 1, position: 3 },
  { type: 'Closed', channel: 2, code: 4404, reason: '' }
])
several('server', 'an unknown kind ends the frame', [{ type: 'Saved', channel: 1, sequence: 1, position: 2 }], '010c0102')
several('server', 'an unknown kind of the connection', [], '007f')

// What must be refused with 4400.
const malformed = [
  ['client', 'nothing', ''],
  ['client', 'a channel alone', '01'],
  ['client', 'a channel that does not end', '80'],
  ['client', 'a kind that does not end', '0180'],
  ['client', 'hello without its text', '0000'],
  ['client', 'hello that is cut', '0000026f'],
  ['client', 'hello that is not UTF-8', '000002c328'],
  ['client', 'hello with half an emoji', '000003eda0bd'],
  ['client', 'ping without its number', '0001'],
  ['client', 'ping of nine octets', '0001ffffffffffffffff01'],
  ['client', 'ping of 2^53', '00018080808080808010'],
  ['client', 'open that ends within the vector', '0100016100050000'],
  ['client', 'open without a position', '01000161000100' + '00'],
  ['client', 'update with a length of 2^53 - 1', '010201' + 'ffffffffffffff0f' + '00'],
  ['client', 'update that is cut', '010201' + '0300' + '00'],
  ['client', 'an octet after a ping', '000105' + '01'],
  ['client', 'a message and one that is cut', '000105' + '010201'],
  ['client', 'identity without its key', '0002'],
  ['client', 'identity that is cut', '000203' + '0011'],
  ['client', 'resume without what is known', '0106' + '0161' + '00' + '0100' + '00' + '00'],
  ['client', 'resume that is cut within what is known', '0106' + '0161' + '00' + '0100' + '00' + '00' + '0201'],
  ['server', 'nothing', ''],
  ['server', 'welcome that is cut', '00000101' + '63'],
  ['server', 'pong without its number', '0001'],
  ['server', 'reconnect without a window', '000205'],
  ['server', 'ended without a reason', '0003e807'],
  ['server', 'opened with a flag of 2', '01000201650000' + '0100'],
  ['server', 'opened that ends within the vector', '0100010165000002' + '00'],
  ['server', 'closed with a reason that is not UTF-8', '0101e807' + '01ff'],
  ['server', 'synced of 2^53', '010780808080808080' + '10'],
  ['server', 'saved without a position', '010801'],
  ['server', 'access without a flag', '010a'],
  ['server', 'access with a flag of 128', '010a80'],
  ['server', 'question that is cut', '010b02' + '00'],
  ['server', 'a message and an octet', '010701' + '01']
].map(([from, name, hex]) => ({ name, from, hex }))

const lines = values => values.map(value => `  ${JSON.stringify(value)}`).join(',\n')
console.log(`{\n "frames": [\n${lines(frames)}\n ],\n "malformed": [\n${lines(malformed)}\n ]\n}`)
