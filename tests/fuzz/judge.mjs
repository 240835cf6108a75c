/**
 * Yjs and y-protocols, as they are in a client, asked what they make of a document.
 *
 * A request is a line of JSON: the updates that somebody there was sent, the presence,
 * and the updates that a newcomer is sent, in base64. The answer says what was wrong, or
 * what both have, and the edit that somebody makes then.
 */
import { createInterface } from 'node:readline'
import * as Y from 'yjs'
import { Awareness, applyAwarenessUpdate, encodeAwarenessUpdate } from 'y-protocols/awareness.js'

const complaints = []
// Subdocuments announce themselves twice when a state is loaded twice.
console.error = (...said) => { if (!String(said[0]).includes('Type with the name')) complaints.push(said.map(String).join(' ')) }
console.warn = console.error

const toBase64 = bytes => Buffer.from(bytes).toString('base64')
const fromBase64 = text => new Uint8Array(Buffer.from(text, 'base64'))

const roots = doc => [
  doc.getText('text'), doc.getMap('map'), doc.getArray('array'), doc.getXmlFragment('xml')
]

/** Everything in a document, comparable. An emoji cut in half counts as a whole one. */
const plain = v => {
  if (v instanceof Y.Doc) return { doc: v.guid }
  if (v instanceof Y.Text) {
    const runs = []
    for (const { insert, attributes } of v.toDelta()) {
      // Read, but not compared: what is left of marks that nobody's editor makes depends
      // on the order in which Yjs tidied them up, and others are told nothing of that.
      JSON.stringify(attributes ?? {})
      if (typeof insert === 'string' && typeof runs.at(-1) === 'string') runs.push(runs.pop() + insert)
      else runs.push(typeof insert === 'string' ? insert : { embed: plain(insert) })
    }
    return { text: runs, attributes: v instanceof Y.XmlText ? plain(v.getAttributes()) : {} }
  }
  if (v instanceof Y.Map) return { map: plain(Object.fromEntries(v.entries())) }
  if (v instanceof Y.XmlElement) return { element: v.nodeName, attributes: plain(v.getAttributes()), children: v.toArray().map(plain) }
  if (v instanceof Y.XmlFragment) return { children: v.toArray().map(plain) }
  if (v instanceof Y.Array) return { array: v.toArray().map(plain) }
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
const content = doc => JSON.stringify(roots(doc).map(plain))
  .replace(/[\u{10000}-\u{10ffff}]/gu, '\ufffd\ufffd')
  .replace(/\\ud[89a-f][0-9a-f]{2}/gi, '\ufffd')

/** The same without order: where hostile items are depends on the order of arrival. */
const unordered = v => {
  if (Array.isArray(v)) {
    return v.flatMap(one => typeof one === 'string' ? [...one] : [one]).map(unordered)
      .map(one => JSON.stringify(one)).sort()
  }
  if (v !== null && typeof v === 'object') {
    return Object.fromEntries(Object.entries(v).map(([key, one]) => [key, unordered(one)]))
  }
  return v
}
const alike = (one, other) => one === other ||
  JSON.stringify(unordered(JSON.parse(one))) === JSON.stringify(unordered(JSON.parse(other)))

const open = () => {
  const doc = new Y.Doc()
  // Editors observe, and ask events what has changed.
  for (const root of roots(doc)) {
    root.observeDeep(events => events.forEach(event => {
      event.changes.keys.size
      if (!(event.target instanceof Y.Map)) event.changes.delta.length
    }))
  }
  return doc
}

const pending = doc => doc.store.pendingStructs !== null || doc.store.pendingDs !== null

const judge = ({ relayed, presence, state }) => {
  complaints.length = 0
  const live = open()
  const awareness = new Awareness(live)
  let at = 'relayed update'
  try {
    for (const update of relayed) Y.applyUpdate(live, fromBase64(update), 'remote')
    at = 'presence'
    awareness.setLocalState({ name: 'judge' })
    for (const states of presence) applyAwarenessUpdate(awareness, fromBase64(states), 'remote')
    JSON.stringify([...awareness.getStates()])
    encodeAwarenessUpdate(awareness, [...awareness.getStates().keys()])
    const mine = awareness.getLocalState()?.name
    if (mine !== 'judge') return { error: 'somebody else spoke for the judge' }
    at = 'state'
    const fresh = open()
    for (const update of state) Y.applyUpdate(fresh, fromBase64(update), 'remote')
    if (pending(live)) return { error: 'what was relayed lacks something' }
    if (pending(fresh)) return { error: 'the state lacks something' }
    at = 'reading what was relayed'
    const shown = content(live)
    at = 'reading the state'
    const served = content(fresh)
    at = 'encoding'
    const own = Y.encodeStateAsUpdate(live)
    const again = open()
    Y.applyUpdate(again, own)
    if (pending(again)) return { error: 'what a client encodes lacks something' }
    if (!alike(content(again), shown)) return { differs: 'a client encodes something else', shown, served: content(again) }
    at = 'editing'
    const edits = []
    live.on('update', update => edits.push(update))
    live.getText('text').insert(0, 'judge')
    live.getMap('map').set('judge', true)
    live.getArray('array').push([1])
    if (edits.length !== 3) return { error: `three edits make ${edits.length} updates` }
    if (complaints.length > 0) return { error: `complained: ${complaints[0].slice(0, 300)}` }
    const answer = {
      shown,
      text: fresh.getText('text').toString(),
      same: alike(shown, served),
      served: shown === served ? '' : served,
      state: toBase64(own),
      edits: edits.map(toBase64)
    }
    for (const doc of [live, fresh, again]) doc.destroy()
    return answer
  } catch (error) {
    return { error: `${at}: ${error.stack.split('\n').slice(0, 3).join(' ')}` }
  } finally {
    awareness.destroy() // It has a timer.
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(judge(JSON.parse(line))) + '\n')
}
