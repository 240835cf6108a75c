/** Names that nobody else invents, on any page of any browser. */

/** A new one. */
export function newId(): string {
  count += 1;
  return `${page}-${count}`;
}

let count = 0;

const page = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) =>
  part.toString(36),
).join("");
