/**
 * Writes to a LevelDB whatever a seed decides, and says what is in it then:
 *
 *   node level.mjs FOLDER SEED      puts, overwrites, deletes, opens it several times
 *   node level.mjs FOLDER for-ever  sets all keys to 0, to 1, to 2, ... until it is killed
 */
import { Level } from 'level'

const [folder, seed] = process.argv.slice(2)

const options = { keyEncoding: 'buffer', valueEncoding: 'buffer', writeBufferSize: 65536 }

const forEver = async () => {
  const db = new Level(folder, { ...options, keyEncoding: 'utf8', valueEncoding: 'utf8' })
  const padding = 'x'.repeat(500)
  for (let n = 0; ; n++) {
    await db.batch(Array.from({ length: 30 }, (_, key) =>
      ({ type: 'put', key: `${key}`, value: `${n} ${Math.random()} ${padding}` })))
    if (n === 0) console.log('begun')
    // As busy as a server is, and not as a loop: there must be moments between two.
    await new Promise(resolve => setTimeout(resolve, 3))
  }
}

const world = async () => {
  let state = Number(seed)
  const random = n => { // Numbers of Lehmer: what they lack doesn't matter here.
    state = state * 48271 % 2147483647
    return Math.floor(state / 2147483647 * n)
  }
  const value = () => {
    const size = random(40) ? random(300) : random(2e5)
    if (random(2)) return Buffer.alloc(size, 'ab'.repeat(1 + random(9)) + random(100))
    return Buffer.from(Array.from({ length: size }, () => random(256)))
  }
  const key = () => Buffer.from(['a', 'ab', 'é', '\0', 'name '][random(5)] + random(60))
  const model = new Map()
  for (let opened = 0; opened < 3; opened++) {
    const db = new Level(folder, { ...options, compression: random(3) > 0 })
    const operations = 200 + random(600)
    for (let n = 0; n < operations; n++) {
      const at = key()
      if (random(4) === 0) {
        await db.del(at)
        model.delete(at.toString('hex'))
      } else {
        const put = value()
        await db.put(at, put)
        model.set(at.toString('hex'), put.toString('base64'))
      }
    }
    if (random(3) === 0) await db.compactRange(Buffer.from([0]), Buffer.from([255]), options)
    // The last time, it is killed instead.
    if (opened < 2) await db.close()
  }
  process.stdout.write(JSON.stringify(Object.fromEntries(model)), () => process.kill(process.pid, 'SIGKILL'))
}

await (seed === 'for-ever' ? forEver() : world())
