/** What a document needs of whatever keeps it in the browser. */

/** Keeps documents; see `collab-client/persistence`. */
export interface Persistence {
  open(name: string): Shelf;
}

/** What was kept. */
export interface Kept {
  /** All there is, as updates in any order. */
  updates: Uint8Array[];
  /** Those that the server has not confirmed, by their names; they are in `updates` too. */
  unsaved: [id: string, update: Uint8Array][];
  /** Up to where the server's document is in it, and which document that was. */
  epoch: string;
  position: number;
}

/** The place of one document. What is put there is there in the same order. */
export interface Shelf {
  /** Read what is there, once; rejected if the browser keeps nothing for us. */
  load(): Promise<Kept>;
  /** Keep what the server said. */
  add(update: Uint8Array): void;
  /** Keep an edit that the server has not confirmed. */
  edit(id: string, update: Uint8Array): void;
  /** Note that edits are confirmed. */
  confirm(ids: string[]): void;
  /** Note how far all that was added so far goes. */
  reach(epoch: string, position: number): void;
  /** Whether everything is on this computer's disk, so that the page can be left. */
  readonly written: boolean;
  close(): Promise<void>;
}
