/** The document, its way to the server, and the switch that cuts it. */

import { CollabClient, CollabDocument } from "collab-client";
import { indexedDb } from "collab-client/persistence";
import { createTabs } from "collab-client/tabs";
import { recall, remember } from "./storage";

/** A document, and what a person can do about its connection. */
export interface Connection {
  client: CollabClient;
  document: CollabDocument;
  /** Whether somebody wants to be without the server. */
  readonly offline: boolean;
  /** Leave the server, or come back to it; a reload of the page changes nothing. */
  setOffline(offline: boolean): void;
}

/** The address of the server, next to the page that we are on. */
export function serverUrl(location: Location): string {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

/** Open a document, and keep it in this browser, too. */
export function connect(name: string): Connection {
  const url = serverUrl(location);
  let offline = recall("offline", "sessionStorage") === true;

  const tabs = createTabs();
  // Tabs tell each other of edits that can't reach the server. Who went offline to see
  // what happens wants to see that nothing does, until they are back.
  const join = (): (() => void) => tabs.join(document, url);
  const client = new CollabClient({
    url,
    connect: !offline,
    tabs: { ...tabs, join: () => () => {} },
  });
  // Of each server that is mounted somewhere on this site, a database of its own.
  const persistence = indexedDb({ database: `collab ${url}` });
  const document = new CollabDocument(client, name, { persistence });
  let leave = offline ? undefined : join();

  return {
    client,
    document,
    get offline() {
      return offline;
    },
    setOffline(wanted) {
      if (wanted === offline) return;
      offline = wanted;
      remember("offline", offline, "sessionStorage");
      if (offline) {
        leave?.();
        client.disconnect();
      } else {
        leave = join();
        client.connect();
      }
    },
  };
}
