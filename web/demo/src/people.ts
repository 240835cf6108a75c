/** Who is here: circles in the header, and a panel to change oneself. */

import type { Awareness } from "y-protocols/awareness";
import { PALETTE } from "./colors";
import { element, find, oncePerFrame } from "./dom";
import { asUser, isChosen, type Me, randomColor, recallMe, rememberMe } from "./me";
import { initials, inventPersonName, PERSON_NAME } from "./names";
import { type Person, readPeople } from "./presence";

/** A screen of this width has less room in the header; see `style.css`. */
const narrow = window.matchMedia("(max-width: 640px)");

/** How many circles there is room for, our own among them. */
function room(): number {
  return narrow.matches ? 3 : 6;
}

/** Show who is here, and say who we are. */
export function showPeople(awareness: Awareness, visit: (client: number) => void): void {
  const list = find("people");
  const others = find("others");
  const alone = find("alone");
  /** Kept as long as somebody is here, so that they keep the focus. */
  const items = new Map<number, HTMLElement>();
  let me = recallMe();
  let shown = "";

  const introduce = (): void => awareness.setLocalStateField("user", asUser(me));
  const change = (part: Partial<Me>): void => {
    me = { ...me, ...part };
    rememberMe(me);
    introduce();
  };

  const draw = (): void => {
    const people = readPeople(awareness);
    const signature = JSON.stringify([people, room()]);
    if (signature === shown) return;
    shown = signature;

    const rest = people.slice(1);
    const circles = people.map((person, index) => {
      const item = items.get(person.client) ?? circle(person.client, awareness, visit);
      items.set(person.client, item);
      item.classList.toggle("beyond", index >= room());
      label(item, person);
      return item;
    });
    for (const client of items.keys()) {
      if (!people.some((person) => person.client === client)) items.delete(client);
    }
    const more = people.length - room();
    arrange(list, more > 0 ? [...circles, surplus(more)] : circles);
    others.replaceChildren(...rest.map((person) => row(person, visit)));
    alone.hidden = rest.length > 0;
  };

  const settle = (): void => {
    // Of two who were given the same colour, the one with the higher id moves.
    if (isChosen()) return;
    const rest = readPeople(awareness).slice(1);
    const clash = rest.some(
      ({ client, color }) => color === me.color && client < awareness.clientID,
    );
    if (!clash) return;
    me = { ...me, color: randomColor(rest.map(({ color }) => color)) };
    introduce();
    select(me.color);
  };

  const select = setUpForm(me, change);
  const refresh = oncePerFrame(() => {
    settle();
    draw();
  });
  awareness.on("change", refresh);
  narrow.addEventListener("change", draw);
  introduce();
  draw();
}

/** Let people choose their name and colour; returns a function that selects a colour. */
function setUpForm(me: Me, change: (part: Partial<Me>) => void): (color: string) => void {
  const name = find<HTMLInputElement>("name");
  const swatches = find("colors");
  const inputs = PALETTE.map(({ name: label, color }) => {
    const input = element("input", { type: "radio", name: "color", value: color });
    input.ariaLabel = label;
    input.title = label;
    input.style.setProperty("--person", color);
    input.addEventListener("change", () => change({ color }));
    return input;
  });
  const select = (color: string): void => {
    for (const input of inputs) input.checked = input.value === color;
  };

  swatches.append(...inputs);
  select(me.color);
  name.value = me.name;
  name.maxLength = PERSON_NAME;
  name.placeholder = me.name;
  name.addEventListener("input", () => {
    change({ name: name.value.trim() || name.placeholder });
  });
  name.addEventListener("keydown", ({ key, isComposing }) => {
    if (key === "Enter" && !isComposing) find("people-panel").hidePopover();
  });
  find("dice").addEventListener("click", () => {
    name.value = inventPersonName();
    change({ name: name.value });
  });
  return select;
}

function circle(
  client: number,
  awareness: Awareness,
  visit: (client: number) => void,
): HTMLElement {
  const mine = client === awareness.clientID;
  const item = element("li", { className: "person" });
  item.dataset["testid"] = "person";
  item.dataset["self"] = String(mine);

  const button = element("button", { type: "button", className: "avatar" });
  if (mine) {
    button.popoverTargetElement = find("people-panel");
    button.ariaHasPopup = "dialog";
    button.dataset["testid"] = "me";
  } else {
    button.addEventListener("click", () => visit(client));
  }
  item.append(button);
  return item;
}

function label(item: HTMLElement, person: Person): void {
  const mine = item.dataset["self"] === "true";
  const button = item.querySelector("button")!;
  item.dataset["name"] = person.name;
  button.title = mine ? `${person.name} (you)` : person.name;
  button.ariaLabel = mine
    ? `${person.name} (you): change name and colour`
    : `${person.name}: go to their cursor`;
  paint(button, person);
}

/** Bring a list's children into this order, without touching those that are there. */
function arrange(list: HTMLElement, children: readonly HTMLElement[]): void {
  for (const child of [...list.children]) {
    if (!children.includes(child as HTMLElement)) child.remove();
  }
  children.forEach((child, index) => {
    if (list.children[index] !== child) {
      list.insertBefore(child, list.children[index] ?? null);
    }
  });
}

function surplus(more: number): HTMLElement {
  const item = element("li", { className: "person surplus" });
  const button = element("button", { type: "button", className: "avatar" });
  button.textContent = `+${more}`;
  button.ariaLabel = `${more} more: show everybody`;
  button.popoverTargetElement = find("people-panel");
  item.append(button);
  return item;
}

function row(person: Person, visit: (client: number) => void): HTMLElement {
  const item = element("li", {});
  const button = element("button", { type: "button", className: "row" });
  const name = element("span", { className: "row-name", textContent: person.name });
  const avatar = element("span", { className: "avatar", ariaHidden: "true" });
  paint(avatar, person);
  button.append(avatar, name);
  button.addEventListener("click", () => {
    find("people-panel").hidePopover();
    visit(person.client);
  });
  item.append(button);
  return item;
}

function paint(avatar: HTMLElement, { name, color }: Person): void {
  avatar.textContent = initials(name);
  avatar.style.setProperty("--person", color);
}
