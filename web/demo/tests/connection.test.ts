import { describe, expect, it } from "vitest";
import { serverUrl } from "../src/connection";

describe("the server's address", () => {
  it.each([
    ["http://localhost:8000/?doc=a/b#c", "ws://localhost:8000/ws"],
    ["https://example.org/?doc=x", "wss://example.org/ws"],
    ["https://example.org/collab/?doc=x", "wss://example.org/collab/ws"],
    ["https://example.org/collab/index.html", "wss://example.org/collab/ws"],
  ])("is next to the page: %s", (page, address) => {
    expect(serverUrl(new URL(page) as unknown as Location)).toBe(address);
  });
});
