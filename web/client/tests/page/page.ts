/**
 * Opens `?url=...&name=...`, with `&keep` in IndexedDB, with `&tabs` for all tabs, by
 * `&transport=...` alone, and tries a better one after `&probe=...` milliseconds.
 */

import {
  CollabClient,
  CollabDocument,
  httpStream,
  longPolling,
  serverSentEvents,
  webSocket,
} from "../../src/index.js";
import { indexedDb } from "../../src/persistence.js";
import { createTabs } from "../../src/tabs.js";

const query = new URLSearchParams(location.search);

const transports = [webSocket, httpStream, serverSentEvents, longPolling];
const transport = transports.find(({ name }) => name === query.get("transport"));
const names: string[] = [];

const client = new CollabClient({
  url: query.get("url")!,
  ...(transport ? { transport } : {}),
  ...(query.has("probe") ? { probe: Number(query.get("probe")) } : {}),
  ...(query.has("tabs") ? { tabs: createTabs() } : {}),
});
const collab = new CollabDocument(
  client,
  query.get("name")!,
  query.has("keep") ? { persistence: indexedDb() } : {},
);
const text = collab.doc.getText("text");

client.on("transport", (name) => names.push(name));

Object.assign(window, {
  names,
  client,
  collab,
  read: () => text.toString(),
  type: (words: string) => text.insert(text.length, words),
});
