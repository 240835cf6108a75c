import { describe, expect, it } from "vitest";
import * as Y from "yjs";
import { readPerson, readSelection } from "../src/presence";

const text = new Y.Doc().getText("text");
text.insert(0, "hello world");

function at(index: number): unknown {
  return Y.relativePositionToJSON(Y.createRelativePositionFromTypeIndex(text, index));
}

describe("presence", () => {
  it("says where somebody is", () => {
    const state = { cursor: { anchor: at(2), head: at(11) } };
    expect(readSelection(state, text)).toEqual({ anchor: 2, head: 11 });
  });

  it.each([
    null,
    7,
    {},
    { cursor: null },
    { cursor: 3 },
    { cursor: {} },
    { cursor: { anchor: at(2) } },
    { cursor: { anchor: at(2), head: "x" } },
    { cursor: { anchor: at(2), head: {} } },
    { cursor: { anchor: at(2), head: { item: "x" } } },
    { cursor: { anchor: at(2), head: { item: { client: "a", clock: -1 } } } },
    { cursor: { anchor: at(2), head: { item: { client: 9, clock: 1e99 } } } },
    { cursor: { anchor: at(2), head: { type: { client: 1, clock: 2 } } } },
    { cursor: { anchor: at(2), head: { tname: "other" } } },
    { cursor: { anchor: at(2), head: { tname: 7 } } },
  ])("that makes no sense is nowhere: %j", (state) => {
    expect(readSelection(state, text)).toBeNull();
  });

  it("shows a person whatever they sent", () => {
    expect(readPerson(7, { name: ["<b>"], color: "red;}" })).toEqual({
      client: 7,
      name: "Anonymous",
      color: "#64707d",
    });
  });
});
