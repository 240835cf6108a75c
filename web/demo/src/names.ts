/** Names that people can read out: of documents, and of those who edit them. */

const ADJECTIVES =
  "amber agile brave bright calm candid clever cosmic cozy curious daring dapper eager early fabled fair fancy fleet fond frank gentle glad golden happy hardy honest humble jolly keen kind lively lucky lunar mellow merry mighty modest neat nimble noble patient plucky polite proud quick quiet rapid ready silent sincere snowy solar spry steady sunny swift tender tidy vivid warm wise witty zesty".split(
    " ",
  );

const ANIMALS =
  "alpaca badger beaver bison bunny camel caribou cheetah cobra condor coyote crane dolphin eagle falcon ferret finch fox gecko gibbon hare hedgehog heron ibex iguana jackal jaguar koala kiwi lemur leopard lynx magpie marmot marten meerkat mole moose narwhal newt ocelot octopus orca otter owl panda panther pelican penguin puffin quail rabbit raccoon raven robin salmon seal sparrow squirrel swan tapir tiger toucan turtle walrus wombat yak zebra".split(
    " ",
  );

/** The longest name of a person that is shown, in UTF-16 units. */
export const PERSON_NAME = 32;

/** The longest name of a document that can be opened here, in UTF-16 units. */
export const DOCUMENT_NAME = 120;

function pick<T>(list: readonly T[]): T {
  return list[randomBelow(list.length)] as T;
}

/** Draw an integer from 0 up to, and not including, the limit. */
export function randomBelow(limit: number): number {
  const [word] = crypto.getRandomValues(new Uint32Array(1));
  return (word as number) % limit;
}

/** Make up the name of a new document, such as `brave-otter-42`. */
export function inventDocumentName(): string {
  return `${pick(ADJECTIVES)}-${pick(ANIMALS)}-${10 + randomBelow(90)}`;
}

/** Make up a name for somebody who hasn't told us theirs, such as `Brave Otter`. */
export function inventPersonName(): string {
  return [pick(ADJECTIVES), pick(ANIMALS)].map(capitalize).join(" ");
}

function capitalize(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

/** Control and format characters, among them those that reverse the text after them. */
const INVISIBLE = /[\p{Cc}\p{Zl}\p{Zp}\u200e\u200f\u202a-\u202e\u2066-\u2069]+/gu;

function clean(text: string, length: number): string {
  const line = text.toWellFormed().replace(INVISIBLE, " ").trim();
  return line.slice(0, length).toWellFormed().replace(/\ufffd$/, "").trim();
}

/** What may be shown of a name that somebody else sent, or `Anonymous`. */
export function readPersonName(value: unknown): string {
  return (typeof value === "string" && clean(value, PERSON_NAME)) || "Anonymous";
}

/**
 * The name of the document that a person asked for, or an empty string.
 *
 * Empty segments and dots are left out: no browser has them in an address, in which
 * clients of y-websocket put the name.
 */
export function readDocumentName(value: string): string {
  return clean(value, DOCUMENT_NAME)
    .split("/")
    .map((segment) => segment.trim())
    .filter((segment) => !/^\.{0,2}$/.test(segment))
    .join("/");
}

/** One or two letters that stand for a person in a small circle. */
export function initials(name: string): string {
  const words = name.split(/[\s._-]+/).filter((word) => word !== "");
  const letters = words.length > 1 ? [words[0], words.at(-1)] : [words[0] ?? "?"];
  return letters.map((word) => firstGrapheme(word as string).toUpperCase()).join("");
}

function firstGrapheme(word: string): string {
  for (const { segment } of new Intl.Segmenter().segment(word)) return segment;
  return "";
}
