/**
 * How long an edit takes to reach somebody else, and to be saved, by each transport.
 *
 * `node --import ./source.mjs latency.ts URL COUNT` prints a line of JSON for each:
 * `{transport, seen, saved}`, with milliseconds for each of COUNT edits.
 */

import {
  CollabClient,
  CollabDocument,
  httpStream,
  longPolling,
  serverSentEvents,
  webSocket,
} from "../../src/index.js";

const [url, count] = [process.argv[2]!, Number(process.argv[3])];

/** Milliseconds between one edit that has arrived and the next one, as of a typist. */
const PAUSE = 40;

const pause = (time: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, time));

for (const transport of [webSocket, httpStream, serverSentEvents, longPolling]) {
  const clients = [1, 2].map(() => new CollabClient({ url, transport }));
  const [writer, reader] = clients.map(
    (client) => new CollabDocument(client, `latency/${transport.name}`),
  ) as [CollabDocument, CollabDocument];
  await Promise.all([writer.whenSynced, reader.whenSynced]);
  const text = writer.doc.getText("t");
  const other = reader.doc.getText("t");
  const seen: number[] = [];
  const saved: number[] = [];
  for (let edit = 0; edit < count; edit += 1) {
    await pause(PAUSE + (edit % 10));
    const began = performance.now();
    const arrived = new Promise<void>((resolve) => {
      const look = (): void => {
        if (other.length <= edit) return;
        other.unobserve(look);
        resolve();
      };
      other.observe(look);
    });
    text.insert(edit, "x");
    await Promise.all([
      arrived.then(() => seen.push(performance.now() - began)),
      writer.whenSaved().then(() => saved.push(performance.now() - began)),
    ]);
  }
  console.log(JSON.stringify({ transport: transport.name, seen, saved }));
  for (const client of clients) client.destroy();
}
