/** Documents that many people edit at once: the client of the server `collab`. */

export {
  CollabClient,
  type ClientEvents,
  type ClientOptions,
  type Status,
  type Tabs,
  type Token,
} from "./client.js";
export {
  CollabDocument,
  type Access,
  type DocumentEvents,
  type DocumentOptions,
} from "./document.js";
export type { CollabError } from "./retry.js";
export type { Kept, Persistence, Shelf } from "./shelf.js";
export { httpStream, longPolling, serverSentEvents } from "./http.js";
export { webSocket, type Carrier, type Handlers, type Transport } from "./transport.js";
