/* The sessions as trees: each with its state, its clocks, what it waits for, and why it is spared. */

import { clockView, eachSecond, shownNow } from "./clock.js";
import { attribute, el, keyed, shown, text } from "./dom.js";
import { explanationView } from "./explanation.js";
import { duration, sentence, state, urgency } from "./words.js";

/** Show the trees of a `sessions` document. */
export function showSessions(list, document, actions) {
  const byId = new Map(document.sessions.map((session) => [session.session_id, session]));
  const context = { byId, observedAt: Date.parse(document.observed_at), document };
  const children = Map.groupBy(document.sessions, (session) => byId.has(session.parent_id) ? session.parent_id : null);
  const item = (session) => ({
    session, context, children: (children.get(session.session_id) ?? []).map(item),
  });
  const urgent = ({ session, children: below }) => Math.min(urgency(session), ...below.map(urgent));
  const trees = (children.get(null) ?? []).map(item).sort((one, other) => urgent(one) - urgent(other));
  keyed(list, trees, (each) => each.session.session_id, () => sessionView(actions));
}

/** What people call a session. */
export function nameOf(session) {
  return session.title?.trim() || session.session_id;
}

function sessionView(actions) {
  const title = el("h3");
  const chip = el("span", { class: "chip" });
  const id = el("span", { class: "id" });
  const directory = el("span", { class: "id" });
  const why = el("p", { class: "why" });
  const waits = el("p", { class: "asks" });
  const calls = el("ul", { class: "calls", role: "list" });
  const below = el("ul", { class: "tree", role: "list" });
  const opened = el("div", { class: "opened" });
  opened.hidden = true;
  const button = (label, properties, listener) => el("button", { type: "button", ...properties, on: { click: listener } }, label);
  let item = null;
  let explanation = null;

  const explain = button("Explanation", { "aria-expanded": "false" }, () => {
    const open = opened.hidden;
    shown(opened, open);
    explain.setAttribute("aria-expanded", String(open));
    if (!open) return;
    explanation ??= explanationView(opened, item.session.session_id);
    explanation.load();
  });
  const hold = button("", {}, () => (item.session.on_hold ? actions.unhold(item.session) : actions.hold(item.session)));
  const release = button("Release…", { class: "end" }, () => actions.release(item.session, item.context));
  const article = el("article", { class: "session" },
    el("header", {}, title, chip), el("div", {}, el("p", { class: "where" }, id, directory), why, waits),
    el("div", { class: "actions" }, explain, hold, release), calls, opened);
  const node = el("li", {}, article, below);
  const drawWaits = () => {
    text(waits, waitWords(item.session, item.context));
    shown(waits, waits.textContent);
  };

  return {
    node,
    update(next) {
      const changed = item && item.session.state !== next.session.state;
      item = next;
      const { session, context } = item;
      const look = state(session);
      attribute(article, "data-tone", look.tone);
      attribute(article, "data-session", session.session_id);
      attribute(article, "aria-label", `${nameOf(session)}: ${look.label}`);
      text(title, nameOf(session));
      attribute(chip, "data-tone", look.tone);
      text(chip, look.label);
      text(id, session.session_id);
      text(directory, session.directory);
      text(why, sentence(whyOf(session, context)));
      eachSecond(waits, drawWaits);
      keyed(calls, callItems(session, context), (each) => each.key, callView);
      text(hold, session.on_hold ? "End the hold" : "Hold…");
      shown(release, session.unfinished);
      release.disabled = session.acting;
      keyed(below, item.children, (each) => each.session.session_id, () => sessionView(actions));
      if (changed && !opened.hidden) explanation.load();
    },
  };
}

function callItems(session, { observedAt }) {
  const clocksOf = (partId) => session.clocks.filter((clock) => clock.part_id === partId);
  const calls = session.calls.map((call) => ({ key: call.part_id, call, clocks: clocksOf(call.part_id), observedAt }));
  const own = clocksOf(null);
  return own.length ? [...calls, { key: "", call: null, clocks: own, observedAt }] : calls;
}

function callView() {
  const name = el("b");
  const status = el("span");
  const clocks = el("div", { class: "clocks" });
  return {
    node: el("li", { class: "call" }, el("div", { class: "tool" }, name, " ", status), clocks),
    update({ call, clocks: shownClocks, observedAt }) {
      text(name, call ? call.tool : "the session");
      text(status, call?.status);
      const label = call ? `clock of the ${call.tool} call` : "clock of the session";
      const items = shownClocks.map((clock) => ({ clock, observedAt }));
      keyed(clocks, items, (each) => each.clock.setting, () => clockView(label));
    },
  };
}

const childName = (wait, byId) => (byId.has(wait.session_id) ? `“${nameOf(byId.get(wait.session_id))}”` : wait.session_id);

function whyOf(session, { byId }) {
  const children = session.waits_for.filter((wait) => wait.what === "child");
  if (session.state !== "waiting_on_child" || !children.length) return session.why;
  return `it waits for ${children.map((wait) => childName(wait, byId)).join(" and ")} below it`;
}

/** What it waits for, as far as its reason does not say it. */
function waitWords(session, { byId }) {
  const said = session.waits_for.flatMap((wait) => {
    if (wait.what === "retry") return [retryWords(wait)];
    if (wait.what !== "child") return session.state === "waiting_on_human" ? [] : [`a ${wait.what} waits for a person's answer`];
    return session.state === "waiting_on_child" ? [] : [`it waits for ${childName(wait, byId)}`];
  });
  if (session.queued_prompts === 1) said.push("a prompt is queued behind it");
  if (session.queued_prompts > 1) said.push(`${session.queued_prompts} prompts are queued behind it`);
  return sentence(said.join("; "));
}

function retryWords(wait) {
  if (!wait.until) return "its provider is tried again later";
  const remaining = (Date.parse(wait.until) - shownNow()) / 1000;
  return remaining > 0 ? `its provider is tried again in ${duration(remaining)}` : "its provider is tried again now";
}
