/**
 * Documents kept in the browser, in IndexedDB.
 *
 * An edit is put there together with the note that the server has not confirmed it, in
 * one transaction, and the position up to which the server's document is there never
 * before that document. So what a page finds is true, whenever the one before it ended.
 * Several tabs may keep the same document: rows are never changed, only joined.
 */

import * as Y from "yjs";
import { newId } from "./id.js";
import type { Kept, Persistence, Shelf } from "./shelf.js";

export interface PersistenceOptions {
  /**
   * The database's name; by default, `collab`. Whoever else opens this site finds what
   * is in it: use one for each user and server, or {@link IndexedDb.clear} it.
   */
  database?: string;
}

/** A database that documents are kept in. */
export interface IndexedDb extends Persistence {
  /** Forget a document, or all. Those that are open must be destroyed before. */
  clear(name?: string): Promise<void>;
}

/** The rows of a document that are joined into one. */
const MANY = 500;

const VERSION = 1;

/** Updates, by document and name: all there are. */
const UPDATES = "updates";

/** Those of them that the server has not confirmed. */
const UNSAVED = "unsaved";

/** How far the server's document is there: `{epoch, position}` by document. */
const REACHED = "reached";

const ALL = [UPDATES, UNSAVED, REACHED];

/** Where in the latter the database's own name is: no key of a document. */
const SELF: IDBValidKey = [];

/** Keep documents in IndexedDB. */
export function indexedDb({ database = "collab" }: PersistenceOptions = {}): IndexedDb {
  let opened: Promise<IDBDatabase> | undefined;

  const open = (): Promise<IDBDatabase> => {
    opened ??= openDatabase(database, () => (opened = undefined));
    return opened;
  };

  return {
    open: (name) => new IndexedShelf(name, open),

    async clear(name) {
      const transaction = (await open()).transaction(ALL, "readwrite");
      for (const store of ALL) {
        if (name === undefined) transaction.objectStore(store).clear();
        else transaction.objectStore(store).delete(store === REACHED ? name : rowsOf(name));
      }
      if (name === undefined) transaction.objectStore(REACHED).put(newId(), SELF);
      await finished(transaction);
    },
  };
}

type Write = (transaction: IDBTransaction) => void;

class IndexedShelf implements Shelf {
  private readonly name: string;
  private readonly open: () => Promise<IDBDatabase>;
  private queue: Write[] = [];
  private writing: Promise<void> | null = null;
  private failed = false;
  private rows = 0;
  /** The name of the database that it is in; undefined until the first look. */
  private self: unknown;

  constructor(name: string, open: () => Promise<IDBDatabase>) {
    this.name = name;
    this.open = open;
  }

  get written(): boolean {
    return this.writing === null && !this.failed;
  }

  async load(): Promise<Kept> {
    const transaction = (await this.open()).transaction(ALL, "readonly");
    const updates = transaction.objectStore(UPDATES).getAll(rowsOf(this.name));
    const unsaved = transaction.objectStore(UNSAVED).getAll(rowsOf(this.name));
    const names = transaction.objectStore(UNSAVED).getAllKeys(rowsOf(this.name));
    const reached = transaction.objectStore(REACHED).get(this.name);
    const self = transaction.objectStore(REACHED).get(SELF);
    await finished(transaction);
    this.self ??= self.result;
    this.rows += updates.result.length;
    return {
      updates: updates.result,
      unsaved: (names.result as [string, string][]).map(([, id], row) => [
        id,
        unsaved.result[row],
      ]),
      ...((reached.result as { epoch: string; position: number } | undefined) ?? {
        epoch: "",
        position: 0,
      }),
    };
  }

  add(update: Uint8Array): void {
    const row = [this.name, newId()];
    this.rows += 1;
    this.write((transaction) => transaction.objectStore(UPDATES).add(update, row));
  }

  edit(id: string, update: Uint8Array): void {
    this.add(update);
    this.write((transaction) => {
      transaction.objectStore(UNSAVED).put(update, [this.name, id]);
    });
  }

  confirm(ids: string[]): void {
    this.write((transaction) => {
      const store = transaction.objectStore(UNSAVED);
      for (const id of ids) store.delete([this.name, id]);
    });
  }

  reach(epoch: string, position: number): void {
    this.write((transaction) => {
      transaction.objectStore(REACHED).put({ epoch, position }, this.name);
    });
  }

  async close(): Promise<void> {
    await this.writing;
  }

  private write(write: Write): void {
    if (this.failed) return;
    this.queue.push(write);
    this.writing ??= this.flush();
  }

  /** Write what there is, and then what came meanwhile: each time in one transaction. */
  private async flush(): Promise<void> {
    try {
      const database = await this.open();
      while (this.queue.length > 0) {
        const queue = this.queue;
        this.queue = [];
        const transaction = database.transaction(ALL, "readwrite");
        const self = transaction.objectStore(REACHED).get(SELF);
        self.onsuccess = () => {
          // The browser's storage may have been cleared, and with it what was there.
          this.self ??= self.result;
          if (this.self !== self.result) return transaction.abort();
          for (const write of queue) write(transaction);
          if (this.rows > MANY) this.join(transaction);
        };
        await finished(transaction);
      }
    } catch (error) {
      // What follows would stand there without what failed: nothing more is kept, and
      // what is there stays true.
      this.failed = true;
      this.queue = [];
      console.warn(`collab: ${this.name} is no longer kept in this browser:`, error);
    }
    this.writing = null;
  }

  /** Put one row in the place of all. */
  private join(transaction: IDBTransaction): void {
    this.rows = 1;
    const store = transaction.objectStore(UPDATES);
    const range = rowsOf(this.name);
    const updates = store.getAll(range);
    updates.onsuccess = () => {
      // With what was deleted, as the application may want that.
      const doc = new Y.Doc({ gc: false });
      doc.transact(() => {
        for (const update of updates.result) Y.applyUpdate(doc, update);
      });
      store.delete(range);
      store.add(Y.encodeStateAsUpdate(doc), [this.name, newId()]);
      doc.destroy();
    };
  }
}

/** All keys that begin with a document's name: lists are greater than strings. */
function rowsOf(name: string): IDBKeyRange {
  return IDBKeyRange.bound([name], [name, []]);
}

function openDatabase(name: string, closed: () => void): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      closed();
      reject(error);
    };
    const request = indexedDB.open(name, VERSION);
    request.onupgradeneeded = () => {
      for (const store of ALL) request.result.createObjectStore(store);
      request.transaction!.objectStore(REACHED).put(newId(), SELF);
    };
    request.onerror = () => fail(request.error);
    request.onblocked = () => fail(new Error("another tab has an older version open"));
    request.onsuccess = () => {
      const database = request.result;
      // Somebody deletes it, or needs a newer version: they would wait for us.
      database.onversionchange = () => {
        database.close();
        closed();
      };
      database.onclose = closed;
      resolve(database);
    };
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("it was aborted"));
  });
}
