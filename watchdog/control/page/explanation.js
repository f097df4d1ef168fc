/* One session explained: what the judgement went by. */

import { request } from "./api.js";
import { clockView } from "./clock.js";
import { attribute, el } from "./dom.js";
import { moment, plain, sentence } from "./words.js";

const STANCES = {
  at_work: ["work", "At work"],
  waits: ["person", "Waits"],
  silent: ["quiet", "Silent"],
  excluded: ["quiet", "Excluded"],
  blocks: ["unsure", "Blocks the proof"],
};

/** A view of the explanation of a session, in the place that is given; `load` asks for it anew. */
export function explanationView(place, sessionId) {
  const body = el("div", {}, el("p", { class: "small" }, "Asking for the explanation."));
  const again = el("button", { type: "button", class: "link", on: { click: () => load() } }, "Explain anew");
  const asOf = el("span", { class: "small" });
  place.append(body, el("p", {}, asOf, again));
  let asked = 0;

  async function load() {
    const mine = asked += 1;
    again.disabled = true;
    try {
      const { document } = await request(`/api/v1/sessions/${encodeURIComponent(sessionId)}`);
      if (mine !== asked) return;
      body.replaceChildren(...explained(document, sessionId));
      asOf.textContent = `As of ${moment(document.observed_at)}. `;
    } catch (error) {
      if (mine === asked) body.replaceChildren(el("p", { class: "notice", "data-tone": "bad" }, error.message));
    } finally {
      again.disabled = false;
    }
  }
  return { load };
}

function explained(document, sessionId) {
  const session = document.sessions.find((each) => each.session_id === sessionId);
  const observedAt = Date.parse(document.observed_at);
  return [
    el("p", { class: "judgement" }, document.judgement),
    ...sentences("What to do", document.advice),
    ...(session ? findings(session) : []),
    ...(session ? clocks(session, observedAt) : []),
    ...(session ? witnesses(session) : []),
    ...sentences("On hold", document.on_hold),
    ...sentences("Earlier interventions", document.interventions),
    ...sentences("Mind", document.notes),
  ];
}

function sentences(title, said) {
  if (!said.length) return [];
  return [el("h4", {}, title), el("ul", { class: "sentences" }, said.map((each) => el("li", {}, each)))];
}

function findings(session) {
  if (session.findings.length < 2) return [];
  return sentences("Findings", session.findings.map((each) => sentence(`${plain(each.name)}: ${each.why}`)));
}

function clocks(session, observedAt) {
  const calls = session.turns.flatMap((turn) => turn.calls);
  const shown = [
    ...calls.flatMap((call) => call.clocks.map((clock) => ({ name: call.tool, clock }))),
    ...session.clocks.map((clock) => ({ name: "the session", clock })),
  ];
  if (!shown.length) return [];
  const rows = shown.map(({ name, clock }) => {
    const view = clockView(`clock of ${name}`);
    view.update({ clock, observedAt, notes: true });
    const origin = clock.origin === clock.setting ? clock.setting : `${clock.setting}, from ${clock.origin}`;
    return el("li", { class: "call" }, el("div", { class: "tool" }, name, el("span", { class: "origin" }, ` ${origin}`)), view.node);
  });
  return [el("h4", {}, "Clocks"), el("ul", { class: "calls", role: "list" }, rows)];
}

function witnesses(session) {
  if (!session.witnesses.length) return [];
  const rows = session.witnesses.map((each) => {
    const [tone, label] = STANCES[each.stance] ?? ["quiet", plain(each.stance)];
    const stance = el("span", { class: "chip" }, label);
    attribute(stance, "data-tone", tone);
    return el("tr", {},
      el("th", { scope: "row" }, plain(each.witness)),
      el("td", {}, stance),
      el("td", {}, each.who ? `${each.who}: ${each.says}` : sentence(each.says)),
      el("td", {}, each.since ? moment(each.since) : ""));
  });
  const heads = ["Witness", "Stance", "Says", "Since"].map((head) => el("th", { scope: "col" }, head));
  const table = el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows));
  return [el("h4", {}, "Witnesses"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Witnesses" }, table)];
}
