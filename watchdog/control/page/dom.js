/* Elements made of data. Whatever comes from outside becomes text and nothing else: no markup is ever parsed, and
   nothing in it is hidden or turns what stands around it. */

import { fit } from "./fit.js";

const READ = new Set(["title", "aria-label", "alt", "placeholder"]);

/** Make an element. `on` holds listeners, `data` the dataset; other names are attributes; null leaves one away. */
export function el(tag, { on = {}, data = {}, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) attribute(node, name, value);
  for (const [name, value] of Object.entries(data)) node.dataset[name] = value;
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  const there = children.flat().filter((child) => child !== null && child !== undefined && child !== "");
  node.append(...there.map((child) => (child instanceof Node ? child : fit(child))));
  return node;
}

/** Set an attribute; true means that it is there, null and false that it is not. */
export function attribute(node, name, given) {
  const value = READ.has(name) && typeof given === "string" ? fit(given) : given;
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** Set a text where it differs: a text that is selected, or read aloud, stays as it is. */
export function text(node, value) {
  const wanted = fit(value ?? "");
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Show it or not. */
export function shown(node, yes) {
  if (node.hidden === Boolean(yes)) node.hidden = !yes;
}

const views = new WeakMap();

/**
 * Make the children of a list those of the items, in their order. What is known already is kept and told its new
 * item, so focus, scroll positions and open explanations stay. Focus in what goes away goes to the list's heading.
 */
export function keyed(list, items, keyOf, create) {
  const known = views.get(list) ?? new Map();
  views.set(list, known);
  const wanted = new Set(items.map(keyOf));
  for (const [key, view] of known) {
    if (wanted.has(key)) continue;
    const focused = view.node.contains(document.activeElement);
    view.node.remove();
    known.delete(key);
    if (focused) list.closest("section")?.querySelector("h2")?.focus({ preventScroll: true });
  }
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const view = known.get(key) ?? create(item);
    known.set(key, view);
    if (view.node === place) place = place.nextElementSibling;
    else move(list, view.node, place);
    view.update(item);
  }
}

function move(list, node, place) {
  if (node.parentNode === list && list.moveBefore) {
    list.moveBefore(node, place);
    return;
  }
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  list.insertBefore(node, place);
  focused?.focus({ preventScroll: true });
}
