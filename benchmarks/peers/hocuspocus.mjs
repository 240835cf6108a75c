// Hocuspocus with its default settings, quiet, in memory.
// DOCUMENT names a file with one Yjs update that every document starts from.
import { readFileSync } from 'node:fs'
import { Server } from '@hocuspocus/server'

const server = new Server({
  address: '127.0.0.1',
  port: Number(process.env.PORT),
  quiet: true,
  ...(process.env.DOCUMENT && {
    onLoadDocument: async () => readFileSync(process.env.DOCUMENT)
  })
})
await server.listen()

// Memory is compared after a collection, so that garbage isn't counted.
process.on('SIGUSR2', () => globalThis.gc?.())
