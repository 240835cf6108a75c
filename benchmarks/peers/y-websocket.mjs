// The y-websocket server as its package starts it (src/server.js of
// @y/websocket-server), without the log line, in memory.
// DOCUMENT names a file with one Yjs update that every document starts from.
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { setPersistence, setupWSConnection } from '@y/websocket-server/utils'
import { WebSocketServer } from 'ws'
import { applyUpdate } from 'yjs'

if (process.env.DOCUMENT) {
  setPersistence({
    provider: null,
    bindState: (_name, doc) => applyUpdate(doc, readFileSync(process.env.DOCUMENT)),
    writeState: async () => {}
  })
}

const sockets = new WebSocketServer({ noServer: true })
sockets.on('connection', setupWSConnection)

const server = http.createServer((_request, response) => response.end('okay'))
server.on('upgrade', (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, socket =>
    sockets.emit('connection', socket, request))
})
server.listen(Number(process.env.PORT), '127.0.0.1')

// Memory is compared after a collection, so that garbage isn't counted.
process.on('SIGUSR2', () => globalThis.gc?.())
