/** Small helpers for the elements of the page. */

/** The element that has this id in `index.html`. */
export function find<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`There is no element #${id}.`);
  return element as T;
}

/** Create an element with these properties. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  properties: Partial<HTMLElementTagNameMap[Tag]>,
): HTMLElementTagNameMap[Tag] {
  return Object.assign(document.createElement(tag), properties);
}

/** Say something to people who use a screen reader. */
export function announce(message: string): void {
  find("announcer").textContent = message;
}

/** A function that runs another one once per frame, however often it is called. */
export function oncePerFrame(run: () => void): () => void {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      run();
    });
  };
}
