/** Who is here: circles in the header, and a panel to change oneself. */

import type { Awareness } from "y-protocols/awareness";
import { PALETTE } from "./colors";
import { element, find } from "./dom";
import { asUser, isChosen, type Me, randomColor, recallMe, rememberMe } from "./me";
import { initials, inventPersonName, PERSON_NAME } from "./names";
import { type Person, readPeople } from "./presence";

/** How many circles there is room for; the style sheet shows fewer on a phone. */
const CIRCLES = 5;

/** Show who is here, and say who we are. */
export function showPeople(awareness: Awareness, visit: (client: number) => void): void {
  const list = find("people");
  const others = find("others");
  const alone = find("alone");
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
    const signature = JSON.stringify(people);
    if (signature === shown) return;
    shown = signature;

    const rest = people.slice(1);
    const circles = people.map((person, index) =>
      circle(person, index, awareness.clientID, visit),
    );
    const more = people.length - CIRCLES;
    list.replaceChildren(...circles, ...(more > 0 ? [surplus(more)] : []));
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
  awareness.on("change", () => {
    settle();
    draw();
  });
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
  person: Person,
  index: number,
  self: number,
  visit: (client: number) => void,
): HTMLElement {
  const mine = person.client === self;
  const item = element("li", { className: "person" });
  item.dataset["testid"] = "person";
  item.dataset["name"] = person.name;
  item.dataset["self"] = String(mine);
  item.classList.toggle("beyond", index >= CIRCLES);

  const button = avatar("button", person);
  if (mine) {
    button.popoverTargetElement = find("people-panel");
    button.ariaLabel = `${person.name} (you): change name and colour`;
    button.title = `${person.name} (you)`;
    button.dataset["testid"] = "me";
  } else {
    button.ariaLabel = `${person.name}: go to their cursor`;
    button.title = person.name;
    button.addEventListener("click", () => visit(person.client));
  }
  item.append(button);
  return item;
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
  button.append(avatar("span", person), name);
  button.addEventListener("click", () => {
    find("people-panel").hidePopover();
    visit(person.client);
  });
  item.append(button);
  return item;
}

function avatar<Tag extends "button" | "span">(
  tag: Tag,
  { name, color }: Person,
): HTMLElementTagNameMap[Tag] {
  const circle = document.createElement(tag);
  circle.className = "avatar";
  circle.textContent = initials(name);
  circle.style.setProperty("--person", color);
  return circle;
}
