// @vitest-environment happy-dom

import { act, StrictMode, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, it } from "vitest";
import type { CollabClient, CollabDocument } from "../src/index.js";
import {
  useAccess,
  useConnection,
  useDocument,
  useError,
  usePresence,
  useProgress,
  useSaved,
  useStatus,
  useSynced,
} from "../src/react.js";
import { Server } from "./server.js";
import { connect, openDocument, pass, textOf, type, useVirtualTime } from "./world.js";

useVirtualTime();

let root: Root;
let shown: HTMLElement;
let page: CollabDocument | null = null;

beforeEach(() => {
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  shown = document.createElement("div");
  root = createRoot(shown);
});

afterEach(() => act(() => root.unmount()));

function Page({ client, name }: { client: CollabClient; name: string }): ReactNode {
  const document = useDocument(client, name);
  const [peers, setState] = usePresence<{ name?: string }>(document);
  page = document;
  const words = [
    document?.name ?? "none",
    useConnection(client),
    useStatus(document),
    useSynced(document) ? "synced" : "not synced",
    useSaved(document) ? "saved" : "not saved",
    `${useProgress(document) * 100}%`,
    useAccess(document) ?? "no access",
    useError(document)?.code ?? "no error",
    peers.map(({ state, isLocal }) => `${state.name ?? "?"}${isLocal ? " (me)" : ""}`).join("+"),
  ];
  return <p onClick={() => setState({ name: "Me" })}>{words.join(", ")}</p>;
}

async function show(content: ReactNode): Promise<void> {
  await act(async () => root.render(<StrictMode>{content}</StrictMode>));
  await act(() => pass(200));
}

it("a document is opened with its component, and shown as it changes", async () => {
  const server = new Server();
  const client = connect(server);
  await show(<Page client={client} name="notes" />);
  expect(shown.textContent).toBe(
    "notes, connected, connected, synced, saved, 100%, write, no error, ? (me)",
  );
  server.commits = false;
  await act(async () => {
    type(page!, "x");
    await pass(100);
  });
  expect(shown.textContent).toContain("not saved");
  await act(async () => {
    server.commit();
    await pass(100);
  });
  expect(shown.textContent).toContain("synced, saved");
  expect(textOf(server.room("notes").disk).toString()).toBe("x");
});

it("strictness opens no second connection", async () => {
  const server = new Server();
  await show(<Page client={connect(server)} name="notes" />);
  expect(server.lines.length).toBe(1);
  expect(server.room("notes").places.size).toBe(1);
});

it("another name is another document, and none is none", async () => {
  const server = new Server();
  const client = connect(server);
  await show(<Page client={client} name="a" />);
  const first = page!;
  await show(<Page client={client} name="b" />);
  expect(shown.textContent).toMatch(/^b, connected, connected, synced/);
  expect(first.status).toBe("disconnected");
  expect(server.room("a").places.size).toBe(0);
  await show(null);
  await act(() => pass(200));
  expect(server.room("b").places.size).toBe(0);
});

it("others are seen, and see us", async () => {
  const server = new Server();
  const other = await openDocument(server, "notes");
  other.awareness.setLocalState({ name: "Ada" });
  await show(<Page client={connect(server)} name="notes" />);
  expect(shown.textContent).toMatch(/\? \(me\)\+Ada$/);
  await act(async () => {
    shown.querySelector("p")!.click();
    await pass(100);
  });
  expect(shown.textContent).toMatch(/Me \(me\)\+Ada$/);
  expect([...other.awareness.getStates().values()]).toContainEqual({ name: "Me" });
});

it("what went wrong is shown", async () => {
  const server = new Server();
  server.room("notes").closing = 4403;
  await show(<Page client={connect(server)} name="notes" />);
  expect(shown.textContent).toContain("connected, closed, not synced");
  expect(shown.textContent).toContain("4403");
});
