/**
 * Yjs clients in one process, driven by a test in Python: a request per line of stdin,
 * an answer per line of stdout, both JSON; updates are base64.
 *
 * Whatever they do is decided by the seeds of the requests, so a run can be repeated.
 */
import { createInterface } from 'node:readline'
import * as Y from 'yjs'

// Subdocuments announce themselves twice when the tests load a state twice.
console.error = () => {}

const toBase64 = bytes => Buffer.from(bytes).toString('base64')
const fromBase64 = text => new Uint8Array(Buffer.from(text, 'base64'))

/** A small seeded generator (mulberry32). */
const generator = seed => {
  const next = () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  const below = n => Math.floor(next() * n)
  return { next, below, pick: list => list[below(list.length)], chance: p => next() < p }
}

const WORDS = ['a', 'b', 'the ', 'quick', '\n', 'é', '漢字', '😀', '👩‍👩‍👧', 'a😀b', '🇩🇪', 'x'.repeat(40)]
const KEYS = ['title', 'count', 'é', '😀', 'list']

/** Anything that a Y.Map or Y.Array takes. */
const value = (random, depth = 0) => {
  if (random.odd && random.chance(0.2)) {
    return BigInt.asIntN(64, BigInt(Math.floor(random.next() * 2 ** 53)) * 4099n)
  }
  const kind = random.below(depth > 2 ? 12 : 15)
  switch (kind) {
    case 0: return null
    case 1: return undefined
    case 2: return random.chance(0.5)
    case 3: return random.below(1000) - 500
    case 4: return random.next() * 1e300
    case 5: return 0.5
    case 6: return Number.MAX_SAFE_INTEGER - random.below(5)
    case 7: return -Number.MAX_SAFE_INTEGER
    case 8: return 2 ** 60
    case 9: return random.pick(WORDS)
    case 10: return random.pick([NaN, Infinity, -0, 1e21, -64, 63, 64, 2 ** 31])
    case 11: return new Uint8Array([1, 2, random.below(256)])
    case 12: return Array.from({ length: random.below(4) }, () => value(random, depth + 1))
    default: return Object.fromEntries(
      Array.from({ length: random.below(4) }, () => [random.pick(KEYS), value(random, depth + 1)]))
  }
}

/** An array's own elements are not as free as what is in them. */
const element = random => {
  const made = value(random)
  return made === undefined || typeof made === 'bigint' ? [made] : made
}

/** What JSON can hold, for embeds and formatting. */
const json = random => random.odd && random.chance(0.3) ? { odd: random.next() } : random.pick([
  true, null, 'red', '😀', 12.5, -0, 300, 0.1,
  { src: 'a.png', size: { w: 1, h: [1, 2, []] } }, [], ['é"\\\n\u2028'], { '': null }
])

const newType = random => {
  switch (random.below(7)) {
    case 0: return new Y.Text(random.pick(WORDS))
    case 1: return new Y.Array()
    case 2: return new Y.Map([[random.pick(KEYS), value(random)]])
    case 3: return new Y.XmlElement(random.pick(['p', 'div', 'é']))
    case 4: return new Y.XmlText(random.pick(WORDS))
    case 5: return new Y.XmlFragment()
    default: return Y.Array.from([element(random), element(random)])
  }
}

const subdocument = random => new Y.Doc({
  guid: `sub-${random.below(1000)}`,
  ...random.pick([{}, { autoLoad: true }, { meta: { a: [1, null] } }, { gc: false }])
})

/** A type of the document: a root, or with luck one that is nested. */
const someType = (doc, random, split) => {
  let type = random.pick([
    () => doc.getText('text'), () => doc.getText('text'), () => doc.getMap('map'),
    () => doc.getArray('array'), () => doc.getXmlFragment('xml')
  ])()
  while (random.chance(0.6)) {
    const inner = children(type)
    if (inner.length === 0) break
    type = random.pick(inner)
  }
  return type
}

const children = type => {
  if (type instanceof Y.Text) return []
  const all = type instanceof Y.Map ? [...type.values()] : type.toArray()
  return all.filter(child => child instanceof Y.AbstractType)
}

const isLow = (text, at) => {
  const code = text.charCodeAt(at)
  return code >= 0xdc00 && code <= 0xdfff
}

const editText = (type, random, split, formats) => {
  const length = type.length
  // Positions count embeds as one; a string of the same positions has them as a space.
  const text = type.toDelta().map(op => typeof op.insert === 'string' ? op.insert : ' ').join('')
  const place = () => {
    let at = random.below(length + 1)
    if (!split && at < length && isLow(text, at)) at--
    return at
  }
  const between = () => {
    const from = place()
    let to = Math.min(length, from + 1 + random.below(6))
    if (!split && to < length && isLow(text, to)) to++
    return [from, to - from]
  }
  const kind = random.below(formats ? 10 : 7)
  if (kind < 4 || length === 0) {
    type.insert(place(), random.pick(WORDS))
  } else if (kind < 7) {
    const [from, count] = between()
    if (count > 0) type.delete(from, count)
  } else if (kind === 7) {
    type.insertEmbed(place(), random.chance(0.8) ? json(random) ?? 'x' : newType(random))
  } else if (kind === 8) {
    const [from, count] = between()
    if (count > 0) type.format(from, count, { [random.pick(['bold', 'link', 'é'])]: json(random) })
  } else {
    type.insert(place(), random.pick(WORDS), { bold: random.pick([true, null]) })
  }
}

const editList = (type, random, made) => {
  const length = type.length
  if (random.chance(0.65) || length === 0) {
    type.insert(random.below(length + 1), made())
  } else {
    const from = random.below(length)
    type.delete(from, Math.min(length - from, 1 + random.below(3)))
  }
}

const edit = (doc, random, { split, formats, nested }) => {
  const type = nested ? someType(doc, random) : doc.getText('text')
  if (type instanceof Y.Text) {
    if (type instanceof Y.XmlText && random.chance(0.1)) {
      type.setAttribute(random.pick(KEYS), random.pick(WORDS))
    } else {
      editText(type, random, split, formats)
    }
  } else if (type instanceof Y.Map) {
    const key = random.pick(KEYS)
    if (random.chance(0.2)) type.delete(key)
    else if (random.chance(0.25)) type.set(key, newType(random))
    else if (random.chance(0.05)) type.set(key, subdocument(random))
    else type.set(key, value(random))
  } else if (type instanceof Y.Array) {
    editList(type, random, () => random.chance(0.3)
      ? [newType(random)]
      : random.chance(0.05)
        ? [subdocument(random)]
        : Array.from({ length: 1 + random.below(4) }, () => element(random)))
  } else if (type instanceof Y.XmlElement && random.chance(0.3)) {
    if (random.chance(0.3)) type.removeAttribute(random.pick(KEYS))
    else type.setAttribute(random.pick(KEYS), random.pick(WORDS))
  } else {
    editList(type, random, () => [random.chance(0.5)
      ? new Y.XmlElement(random.pick(['p', 'h1']))
      : new Y.XmlText(random.pick(WORDS))])
  }
}

/** Everything in a document, comparable: Y types, values that JSON does not have. */
const content = doc => {
  const plain = v => {
    if (v instanceof Y.Doc) return { doc: v.guid }
    if (v instanceof Y.Text) {
      // Runs of equal attributes may be cut differently.
      const runs = []
      for (const { insert, attributes } of v.toDelta()) {
        const marks = plain(attributes ?? {})
        const last = runs.at(-1)
        if (last && typeof insert === 'string' && typeof last[0] === 'string' &&
            JSON.stringify(last[1]) === JSON.stringify(marks)) last[0] += insert
        else runs.push([typeof insert === 'string' ? insert : { embed: plain(insert) }, marks])
      }
      return { text: runs, attributes: v instanceof Y.XmlText ? plain(v.getAttributes()) : {} }
    }
    if (v instanceof Y.Map) return { map: plain(Object.fromEntries(v.entries())) }
    if (v instanceof Y.Array) return { array: v.toArray().map(plain) }
    if (v instanceof Y.XmlElement) return { element: v.nodeName, attributes: plain(v.getAttributes()), children: v.toArray().map(plain) }
    if (v instanceof Y.XmlFragment) return { children: v.toArray().map(plain) }
    if (typeof v === 'bigint') return { bigint: String(v) }
    if (v === undefined) return { undefined: 1 }
    if (typeof v === 'number' && !Number.isFinite(v)) return { number: String(v) }
    if (v instanceof Uint8Array) return { bytes: [...v] }
    if (Array.isArray(v)) return v.map(plain)
    if (v !== null && typeof v === 'object') {
      return Object.fromEntries(Object.keys(v).sort().map(key => [key, plain(v[key])]))
    }
    return v
  }
  return JSON.stringify([doc.getText('text'), doc.getMap('map'), doc.getArray('array'), doc.getXmlFragment('xml')].map(plain))
}

let clients = []
/** Every update there is, by number, whoever made it. */
let updates = []
let made = []

const open = ({ ids, gc, undo }) => {
  clients.forEach(client => client.doc.destroy())
  updates = []
  clients = ids.map((id, number) => {
    const doc = new Y.Doc({ gc })
    doc.clientID = id
    const client = { doc, offline: null, undo: null }
    if (undo) {
      client.undo = new Y.UndoManager(
        [doc.getText('text'), doc.getMap('map'), doc.getArray('array'), doc.getXmlFragment('xml')],
        { captureTimeout: 0, trackedOrigins: new Set(['edit']) })
    }
    doc.on('update', (update, origin) => {
      if (origin === 'remote') return
      if (client.offline === null) send(number, update)
      else client.offline.made.push(update)
    })
    return client
  })
}

const send = (number, update) => {
  made.push([number, updates.length, toBase64(update)])
  updates.push(update)
}

/** Go offline, or come back in one of the ways that providers have. */
const toggle = (client, number, random) => {
  if (client.offline === null) {
    client.offline = { since: Y.encodeStateVector(client.doc), made: [] }
    return
  }
  const { since, made } = client.offline
  client.offline = null
  if (made.length === 0) return
  switch (random.below(4)) {
    case 0: made.forEach(update => send(number, update)); break
    case 1: send(number, Y.mergeUpdates(made)); break
    case 2: send(number, Y.encodeStateAsUpdate(client.doc, since)); break
    default: send(number, Y.encodeStateAsUpdate(client.doc))
  }
}

const round = ({ seed, edits, mix, deliver }) => {
  const random = generator(seed)
  // Whether there are values that pycrdt does not encode as they are.
  random.odd = mix.odd ?? false
  for (const [number, indices] of deliver) {
    for (const index of indices) Y.applyUpdate(clients[number].doc, updates[index], 'remote')
  }
  for (let n = 0; n < edits; n++) {
    const number = random.below(clients.length)
    const client = clients[number]
    const choice = random.next()
    if (choice < mix.offline) toggle(client, number, random)
    else if (client.undo && choice < mix.offline + 0.1) {
      random.chance(0.6) ? client.undo.undo() : client.undo.redo()
    } else {
      const count = random.chance(0.1) ? 1 + random.below(5) : 1
      client.doc.transact(() => {
        for (let i = 0; i < count; i++) edit(client.doc, random, mix)
      }, 'edit')
    }
    // Some providers send a thing twice, merge what waits, or send all they have.
    if (updates.length > 4 && random.chance(mix.merges)) {
      const from = random.below(updates.length - 3)
      send(number, random.chance(0.5)
        ? Y.mergeUpdates(updates.slice(from, from + 2 + random.below(8)))
        : random.chance(0.9)
          ? Y.diffUpdate(Y.mergeUpdates(updates.slice(from, from + 3)), Y.encodeStateVector(client.doc))
          : Y.encodeStateAsUpdate(client.doc))
    }
  }
}

const settle = ({ deliver }) => {
  for (const [number, indices] of deliver) {
    for (const index of indices) Y.applyUpdate(clients[number].doc, updates[index], 'remote')
  }
}

const handlers = {
  open,
  round,
  settle,
  online: ({ seed }) => {
    const random = generator(seed)
    clients.forEach((client, number) => client.offline && toggle(client, number, random))
  },
  states: () => clients.map(({ doc }) => ({
    state: toBase64(Y.encodeStateAsUpdate(doc)),
    content: content(doc),
    pending: doc.store.pendingStructs !== null || doc.store.pendingDs !== null
  })),
  load: ({ updates }) => {
    const doc = new Y.Doc()
    try {
      // A list is applied as one transaction.
      for (const update of updates) {
        doc.transact(() => [update].flat().forEach(one => Y.applyUpdate(doc, fromBase64(one))))
      }
      const state = Y.encodeStateAsUpdate(doc)
      return { state: toBase64(state), content: content(doc), pending: doc.store.pendingStructs !== null || doc.store.pendingDs !== null }
    } catch (error) {
      return { error: String(error) }
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { op, foreign = [], ...request } = JSON.parse(line)
  made = []
  for (const update of foreign) updates.push(fromBase64(update))
  let message
  try {
    const answer = handlers[op](request) ?? {}
    message = { made, answer }
  } catch (error) {
    message = { failed: error.stack }
  }
  process.stdout.write(JSON.stringify(message) + '\n')
}
