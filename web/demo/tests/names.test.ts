import { describe, expect, it } from "vitest";
import {
  initials,
  inventDocumentName,
  inventPersonName,
  PERSON_NAME,
  readDocumentName,
  readPersonName,
} from "../src/names";

describe("names", () => {
  it("are invented in a form that can be read out", () => {
    expect(inventDocumentName()).toMatch(/^[a-z]+-[a-z]+-[1-9]\d$/);
    expect(inventPersonName()).toMatch(/^[A-Z][a-z]+ [A-Z][a-z]+$/);
  });

  it.each([
    ["Ada", "Ada"],
    ["  Ada \n Lovelace ", "Ada   Lovelace"],
    ["\u202edaA", "daA"],
    ["x".repeat(99), "x".repeat(PERSON_NAME)],
    [`${"x".repeat(PERSON_NAME - 1)}😀`, "x".repeat(PERSON_NAME - 1)],
    ["", "Anonymous"],
    [42, "Anonymous"],
    [null, "Anonymous"],
  ])("of people are shown safely: %j", (sent, shown) => {
    expect(readPersonName(sent)).toBe(shown);
  });

  it.each([
    ["notes", "notes"],
    ["team/plans 2027", "team/plans 2027"],
    ["/team//plans/", "team/plans"],
    ["../../etc/./passwd", "etc/passwd"],
    ["Ideen 💡", "Ideen 💡"],
    [" \u0000 ", ""],
  ])("of documents can be sent to a server: %j", (asked, name) => {
    expect(readDocumentName(asked)).toBe(name);
  });

  it.each([
    ["Brave Otter", "BO"],
    ["ada", "A"],
    ["Jean-Luc Picard", "JP"],
    ["👩‍🚀 Space", "👩‍🚀S"],
    ["", "?"],
  ])("have initials: %j", (name, letters) => {
    expect(initials(name)).toBe(letters);
  });
});
