/* Clocks as bars that fill towards their limit, and go on between two answers. */

import { serverNow } from "./api.js";
import { attribute, el, shown, text } from "./dom.js";
import { duration } from "./words.js";

const TICK_MS = 1_000;
const ticking = new Map();
let frozenAt = null;

/** The moment that is shown: the watchdog's now, or the last one that was heard of while the connection is lost. */
export function shownNow() {
  return frozenAt ?? serverNow();
}

/** Stop all clocks where they are, or let them go on: without the watchdog nobody knows whether they still run. */
export function freeze(yes) {
  if (yes === (frozenAt !== null)) return;
  frozenAt = yes ? serverNow() : null;
  attribute(document.body, "data-frozen", yes);
  tick();
}

/** Call `draw` now and every second for as long as its node is shown on the page. */
export function eachSecond(node, draw) {
  ticking.set(node, draw);
  draw();
}

function tick() {
  for (const [node, draw] of ticking) {
    if (node.isConnected) draw();
    else ticking.delete(node);
  }
}

setInterval(tick, TICK_MS);

/** A clock of the API's, with the moment that its age is of. */
export function clockView(name) {
  const fill = el("span");
  const bar = el("div", { class: "bar", role: "meter", "aria-valuemin": 0 }, fill);
  const reads = el("span", { class: "reads" });
  const left = el("span", { class: "left" });
  const note = el("span", { class: "note" });
  const node = el("div", { class: "clock" }, bar, reads, left, note);
  let clock = null;
  let observedAt = 0;

  const draw = () => {
    const { age, limit } = reading(clock, observedAt);
    const past = age !== null && limit !== null && age >= limit;
    attribute(node, "data-tone", past ? "stuck" : null);
    attribute(node, "data-off", limit === null);
    text(reads, words(age, limit));
    text(left, remains(clock, age, limit));
    const fraction = age === null || !limit ? 0 : Math.min(1, age / limit);
    fill.style.transform = `translateX(${(fraction * 100 - 100).toFixed(3)}%)`;
    attribute(bar, "aria-valuemax", limit ?? 0);
    attribute(bar, "aria-valuenow", limit === null ? 0 : Math.min(limit, Math.floor(age ?? 0)));
    attribute(bar, "aria-valuetext", words(age, limit));
  };
  return {
    node,
    update(item) {
      ({ clock, observedAt } = item);
      attribute(bar, "aria-label", `${name}, limit from ${clock.origin}`);
      attribute(node, "title", `${clock.setting}, from ${clock.origin}`);
      const said = [clock.stands_still, item.notes ? clock.note : null].filter(Boolean).join("; ");
      text(note, said);
      shown(note, said);
      eachSecond(node, draw);
    },
  };
}

function reading(clock, observedAt) {
  const limit = clock.limit_seconds;
  if (clock.age_seconds === null) return { age: null, limit };
  const since = clock.stands_still ? 0 : Math.max(0, shownNow() - observedAt) / 1000;
  return { age: clock.age_seconds + since, limit };
}

function words(age, limit) {
  const shows = age === null ? "not known" : duration(age);
  return limit === null ? `${shows}, no limit` : `${shows} of ${duration(limit)}`;
}

function remains(clock, age, limit) {
  if (age === null || limit === null) return "";
  if (age >= limit) return age - limit < 1 ? "limit reached" : `${duration(age - limit)} past it`;
  return clock.stands_still ? "stands still" : `${duration(limit - age)} left`;
}
