/**
 * Writes documents into the store of another server, with that server's own package:
 *
 *   node write.mjs none | hocuspocus-sqlite FILE | y-leveldb FOLDER
 *
 * Says what it wrote, in one line of JSON, and has the store open from then on. After
 * that it answers states (a line of JSON each, {name: base64}) with what Yjs shows of
 * them. It closes the store when its input ends.
 */
import { createInterface } from 'node:readline'
import * as Y from 'yjs'

const toBase64 = bytes => Buffer.from(bytes).toString('base64')
const fromBase64 = text => new Uint8Array(Buffer.from(text, 'base64'))

/** A small seeded generator (mulberry32). */
const generator = seed => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

const WORDS = ['a', 'the ', 'quick', '\n', 'é', '漢字', '😀', '👩‍👩‍👧', '🇩🇪', 'x'.repeat(40)]
const KEYS = ['title', 'count', 'é', '😀', 'list']

/** What somebody does to a document, at a place that chance decides. */
const edit = (doc, random) => {
  const below = n => Math.floor(random() * n)
  const pick = list => list[below(list.length)]
  const value = () => pick([null, true, below(1000), 0.5, pick(WORDS), [1, 'a', { b: '😀' }], { '': [] }])
  const text = doc.getText('text')
  const array = doc.getArray('array')
  // Not within an emoji: pycrdt, which some stores squash with, would lose count.
  const characters = [...text.toString()]
  const from = below(characters.length)
  const at = characters.slice(0, from).join('').length
  const length = characters.slice(from, from + 1 + below(3)).join('').length
  switch (below(9)) {
    case 0: return text.delete(at, length)
    case 1: return text.format(at, length, { [pick(['bold', 'é'])]: pick([true, null]) })
    case 2: return array.insert(below(array.length + 1), [value(), value()])
    case 3: return array.length && array.delete(below(array.length))
    case 4: return doc.getMap('map').set(pick(KEYS), value())
    case 5: return doc.getMap('map').delete(pick(KEYS))
    case 6: return doc.getMap('map').set('nested', new Y.Map([[pick(KEYS), new Y.Text(pick(WORDS))]]))
    default: return text.insert(at, pick(WORDS))
  }
}

/** What is in a document, as JSON. */
const shown = doc => ({
  text: doc.getText('text').toDelta(),
  map: doc.getMap('map').toJSON(),
  array: doc.getArray('array').toJSON()
})

/** A document that some clients wrote at the same time, and the updates they sent. */
const written = (name, seed, edits, act = edit) => {
  const random = generator(seed)
  const updates = []
  const clients = Array.from({ length: 3 }, (_, number) => {
    const doc = Object.assign(new Y.Doc(), { clientID: seed * 10 + number + 1 })
    doc.on('update', (update, origin) => origin !== 'heard' && updates.push(update))
    return { doc, heard: 0 }
  })
  const hear = client => {
    const until = updates.length
    for (; client.heard < until; client.heard++) Y.applyUpdate(client.doc, updates[client.heard], 'heard')
  }
  for (let n = 0; n < edits; n++) {
    const client = clients[Math.floor(random() * clients.length)]
    if (random() < 0.4) hear(client)
    act(client.doc, random)
  }
  clients.forEach(hear)
  return { name, updates, shown: shown(clients[0].doc) }
}

/** Half an emoji is deleted, as by an editor that counts UTF-16. */
const cut = doc => {
  const text = doc.getText('text')
  if (text.length === 0) text.insert(0, 'a😀b')
  else text.delete(2, 1)
}

/** A text of 4 MB in one update, and others beside it. */
const paste = (doc, random) => {
  const text = doc.getText('text')
  const size = doc.clientID % 10 === 1 && text.length < 1000 ? 4e5 : 1
  text.insert(0, Array.from({ length: size }, () => `${random()}`.slice(2, 11)).join(' '))
}

const type = (doc, random) => {
  const text = doc.getText('text')
  text.insert(Math.floor(random() * (text.length + 1)), 'a')
}

/** One update of a document is lost, with which others can't be shown, or not all. */
const without = (lost, document) => {
  const updates = document.updates.filter((_, n) => n !== lost)
  const doc = new Y.Doc()
  for (const update of updates) Y.applyUpdate(doc, update)
  if (doc.store.pendingStructs === null) throw Error('nothing waits for what is lost')
  return { ...document, updates, shown: shown(doc) }
}

const documents = [
  written('empty', 1, 0),
  written('a/b/../c?d=e#f%20', 2, 40),
  written('漢字 😀/é', 3, 40),
  written('x'.repeat(200), 4, 40),
  written('half an emoji', 5, 6, cut),
  written('large', 6, 6, paste),
  written('squashed', 7, 60),
  written('whole', 9, 60),
  ...[3, 8, 15, 21, 22, 25].map(lost => without(lost, written(`lacks ${lost}`, 9, 60))),
  written('long', 8, 510, type),
  ...Array.from({ length: 80 }, (_, n) => written(`note ${n}`, 100 + n, 8))
]

const stores = {
  none: async () => async () => {},

  'hocuspocus-sqlite': async path => {
    const { Hocuspocus } = await import('@hocuspocus/server')
    const { SQLite } = await import('@hocuspocus/extension-sqlite')
    const extension = new SQLite({ database: path })
    const server = new Hocuspocus({ quiet: true, extensions: [extension] })
    for (const { name, updates } of documents) {
      const connection = await server.openDirectConnection(name)
      for (const update of updates) {
        await connection.transact(doc => Y.applyUpdate(doc, update))
      }
      await connection.disconnect()
    }
    // A document that is opened and left is not stored.
    await extension.onStoreDocument({ documentName: 'empty', document: new Y.Doc() })
    return async () => extension.db.close()
  },

  'y-leveldb': async path => {
    const { LeveldbPersistence } = await import('y-leveldb')
    // Small, so that there are many tables, which are put together now and then.
    const store = new LeveldbPersistence(path, { levelOptions: { writeBufferSize: 65536 } })
    for (const { name, updates } of documents) {
      // As y-websocket's server does when somebody opens a document.
      await store.storeUpdate(name, Y.encodeStateAsUpdate(new Y.Doc()))
      for (const [n, update] of updates.entries()) {
        await store.storeUpdate(name, update)
        if (n === 40) await store.flushDocument(name)
      }
      await store.setMeta(name, 'zzz', { seen: updates.length })
    }
    await store.getYDoc('long') // It squashes what has more than 500 updates.
    await store.storeUpdate('deleted', documents[1].updates[0])
    await store.clearDocument('deleted')
    return () => store.destroy()
  }
}

const [kind, path] = process.argv.slice(2)
const close = await stores[kind](path)
console.log(JSON.stringify(documents.map(({ name, updates, shown }) =>
  ({ name, shown, updates: kind === 'none' ? updates.map(toBase64) : [] }))))
for await (const line of createInterface({ input: process.stdin })) {
  const answer = {}
  for (const [name, state] of Object.entries(JSON.parse(line))) {
    const doc = new Y.Doc()
    Y.applyUpdate(doc, fromBase64(state))
    answer[name] = shown(doc)
  }
  console.log(JSON.stringify(answer))
}
await close()
