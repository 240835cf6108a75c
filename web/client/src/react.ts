/** Documents in React: opened with a component, and shown as they change. */

import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { CollabClient, Status } from "./client.js";
import {
  CollabDocument,
  type Access,
  type DocumentEvents,
  type DocumentOptions,
} from "./document.js";
import type { CollabError } from "./retry.js";

/** What a document knows of itself; see {@link CollabDocument}. */
type Known = "status" | "synced" | "saved" | "progress" | "access" | "error";

/** Somebody who has the document open, and what they say about themselves. */
export interface Peer<State> {
  client: number;
  state: State;
  /** Whether that is this document. */
  isLocal: boolean;
}

/**
 * Open a document while the component is there; null in the first render.
 *
 * Another client or name is another document. `options` count when it is opened.
 */
export function useDocument(
  client: CollabClient,
  name: string,
  options?: DocumentOptions,
): CollabDocument | null {
  const [document, setDocument] = useState<CollabDocument | null>(null);
  const given = useRef(options);
  useEffect(() => {
    given.current = options;
  });
  useEffect(() => {
    const opened = new CollabDocument(client, name, given.current);
    setDocument(opened);
    return () => {
      setDocument(null);
      opened.destroy();
    };
  }, [client, name]);
  return document;
}

/** How the document stands. */
export function useStatus(document: CollabDocument | null): Status {
  return useKnown(document, "status", "disconnected");
}

/** Whether all that the server has is here. */
export function useSynced(document: CollabDocument | null): boolean {
  return useKnown(document, "synced", false);
}

/** Whether all that was written here is on the server's disk. */
export function useSaved(document: CollabDocument | null): boolean {
  return useKnown(document, "saved", false);
}

/** How much of the document has arrived: 0 to 1. */
export function useProgress(document: CollabDocument | null): number {
  return useKnown(document, "progress", 0);
}

/** Whether the server takes edits; null until it has said so. */
export function useAccess(document: CollabDocument | null): Access | null {
  return useKnown(document, "access", null);
}

/** Why the document isn't open. */
export function useError(document: CollabDocument | null): CollabError | null {
  return useKnown(document, "error", null);
}

/** How the connection stands. */
export function useConnection(client: CollabClient): Status {
  const subscribe = useCallback(
    (changed: () => void) => {
      client.on("status", changed);
      return () => client.off("status", changed);
    },
    [client],
  );
  return useSyncExternalStore(
    subscribe,
    () => client.status,
    () => "disconnected",
  );
}

/** Everybody who is here, and a function that says something about ourselves. */
export function usePresence<State extends object = Record<string, unknown>>(
  document: CollabDocument | null,
): [peers: readonly Peer<State>[], setState: (state: State | null) => void] {
  const [peers, setPeers] = useState<readonly Peer<State>[]>([]);
  useEffect(() => {
    if (document === null) return;
    const { awareness } = document;
    const show = (): void => {
      setPeers(
        [...awareness.getStates()].map(([client, state]) => ({
          client,
          state: state as State,
          isLocal: client === awareness.clientID,
        })),
      );
    };
    show();
    awareness.on("change", show);
    return () => {
      awareness.off("change", show);
      setPeers([]);
    };
  }, [document]);
  const setState = useCallback(
    (state: State | null) => document?.awareness.setLocalState(state),
    [document],
  );
  return [peers, setState];
}

function useKnown<Name extends Known>(
  document: CollabDocument | null,
  name: Name,
  nothing: CollabDocument[Name],
): CollabDocument[Name] {
  const subscribe = useCallback(
    (changed: () => void) => {
      const listener = changed as DocumentEvents[Name];
      document?.on(name, listener);
      return () => document?.off(name, listener);
    },
    [document, name],
  );
  return useSyncExternalStore(
    subscribe,
    () => document?.[name] ?? nothing,
    () => nothing,
  );
}
