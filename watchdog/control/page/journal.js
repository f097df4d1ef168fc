/* The journal: what was done, its rows before and after, and the way back. */

import { request } from "./api.js";
import { attribute, el, keyed, shown, text } from "./dom.js";
import { marked, written } from "./lines.js";
import { count, moment, plain, result, sentence } from "./words.js";

const PAGE = 20;

/** The journal in its list; `refresh` asks for the newest, `older` for what came before. */
export function journalView({ list, empty, more, actions }) {
  const entries = new Map();
  let next = null;

  async function refresh() {
    const { document } = await request(`/api/v1/interventions?limit=${PAGE}`);
    const overlaps = document.interventions.some((each) => entries.has(each.id));
    if (!overlaps) {
      entries.clear();
      next = document.next;
    }
    draw(document);
  }

  async function older() {
    more.disabled = true;
    try {
      const { document } = await request(next);
      next = document.next;
      draw(document);
    } finally {
      more.disabled = false;
    }
  }

  function draw(document) {
    for (const each of document.interventions) entries.set(each.id, each);
    const newestFirst = [...entries.values()].sort((one, other) => other.id - one.id);
    keyed(list, newestFirst, (each) => each.id, () => entryView(actions));
    shown(empty, !newestFirst.length);
    text(empty, "Nothing was done yet. What the watchdog ends, and what you release, stands here.");
    shown(more, next);
  }

  function unavailable(why) {
    if (entries.size) return;
    shown(empty, true);
    text(empty, why);
  }
  return { refresh, older, unavailable };
}

function entryView(actions) {
  const title = el("h3");
  const chip = el("span", { class: "chip" });
  const facts = el("p", { class: "facts" });
  const why = el("p", { class: "facts" });
  const opened = el("div", { class: "opened rows" });
  opened.hidden = true;
  const open = el("button", { type: "button", class: "open", "aria-expanded": "false", on: { click: toggle } }, "Details");
  const node = el("li", { class: "entry" }, el("header", {}, el("div", { class: "titled" }, title, chip), facts, why, open), opened);
  let entry = null;

  function toggle() {
    shown(opened, opened.hidden);
    open.setAttribute("aria-expanded", String(!opened.hidden));
    if (!opened.hidden) load();
  }

  async function load() {
    try {
      const { document } = await request(`/api/v1/interventions/${entry.id}`);
      opened.replaceChildren(...details(document, actions));
    } catch (error) {
      opened.replaceChildren(el("p", { class: "notice", "data-tone": "bad" }, error.message));
    }
  }

  return {
    node,
    update(nextEntry) {
      const changed = entry && (entry.undone_at !== nextEntry.undone_at || entry.ended_at !== nextEntry.ended_at);
      entry = nextEntry;
      const { verdict, outcome } = entry;
      const look = entry.undone_at ? { tone: "hold", label: "Undone" }
        : outcome ? result(outcome.result) : { tone: "unsure", label: "Begun" };
      attribute(node, "data-intervention", entry.id);
      text(title, `${plain(verdict.kind)}${verdict.tool ? ` · ${verdict.tool}` : ""}`);
      attribute(chip, "data-tone", look.tone);
      text(chip, look.label);
      const who = entry.actor === "person" ? "a person" : "the watchdog";
      const reason = entry.reason ? ` (“${entry.reason}”)` : "";
      const undone = entry.undone_at ? ` · undone ${moment(entry.undone_at)}` : "";
      text(facts, `${moment(entry.began_at)} · by ${who}${reason} · ${verdict.session_id}${undone}`);
      text(why, sentence(verdict.why));
      attribute(open, "aria-label", `Details of intervention ${entry.id}`);
      if (changed && !opened.hidden) load();
    },
  };
}

function details(document, actions) {
  const { intervention, rows } = document;
  const { outcome } = intervention;
  const undo = el("button", { type: "button", on: { click: () => actions.undo(intervention, rows) } }, "Undo…");
  const way = intervention.undone_at ? `It was undone ${moment(intervention.undone_at)}.`
    : rows.length ? `It wrote ${count(rows.length, "row")}.`
      : "It wrote no row itself: the server that ran it ended it. An abort can't be undone.";
  return [
    outcome ? el("p", {}, sentence(outcome.why)) : el("p", {}, "It has begun, and has no outcome yet."),
    ...(outcome?.steps.length ? [el("h4", {}, "Steps"), stepList(outcome.steps)] : []),
    el("h4", {}, "Rows before and after"),
    el("p", {}, way),
    ...rows.map(rowView),
    ...(rows.length && !intervention.undone_at ? [el("p", { class: "actions" }, undo)] : []),
  ];
}

/** The steps of an outcome, each with what was seen. */
export function stepList(steps) {
  return el("ol", { class: "steps" }, steps.map((each) => {
    const item = el("li", {},
      el("span", { class: "mark", role: "img", "aria-label": each.ok ? "worked" : "did not work" }, each.ok ? "✓" : "✗"),
      el("span", {}, plain(each.step)), el("span", { class: "at" }, each.detail));
    item.dataset.tone = each.ok ? "good" : "bad";
    return item;
  }));
}

function rowView(row) {
  const { before, after } = marked(written(row.before), written(row.after));
  const side = (name, lines) => el("div", {},
    el("h4", {}, name), el("pre", { class: name.toLowerCase(), tabindex: 0, "aria-label": `${row.table} ${row.id} ${name.toLowerCase()}` },
      lines.map((line) => el("span", line.changed ? { class: "changed" } : {}, line.text || " "))));
  return el("div", {}, el("p", { class: "id" }, `${row.table} ${row.id}`),
    el("div", { class: "pair" }, side("Before", before), side("After", after)));
}
