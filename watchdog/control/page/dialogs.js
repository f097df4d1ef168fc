/* Questions before something is done, and what came of it. */

import { request } from "./api.js";
import { el } from "./dom.js";
import { stepList } from "./journal.js";
import { nameOf } from "./sessions.js";
import { count, duration, result, sentence } from "./words.js";

const POLL_MS = 500;
const dialog = document.getElementById("dialog");
let opening = 0;

const closing = (label, focused) => el("button", { type: "button", autofocus: focused, on: { click: () => dialog.close() } }, label);

/**
 * Ask a person, do it, and show what came of it.
 *
 * `parts` are the nodes of the question; `act` gets the form's values and answers the nodes of the result. The
 * question can be closed while it is done: it goes on, and the journal shows it.
 */
function ask({ title, parts, confirm, ends = false, act, done }) {
  const mine = opening += 1;
  const agree = el("button", { type: "submit", class: ends ? "end" : "primary" }, confirm);
  const form = el("form", { method: "dialog", on: { submit: (event) => submit(event) } },
    heading(title), ...parts, el("div", { class: "buttons" }, closing("Cancel", true), agree));

  async function submit(event) {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(form));
    const status = el("p", { role: "status" }, "It is being done.");
    dialog.replaceChildren(el("div", { class: "body" }, heading(title.replace("?", "")), status, el("div", { class: "buttons" }, closing("Close", true))));
    dialog.querySelector("button").focus();
    let told;
    try {
      told = await act(values);
    } catch (error) {
      told = [el("p", { class: "notice", "data-tone": "bad" }, error.message)];
    }
    if (mine === opening) status.replaceWith(el("div", { class: "body", role: "status" }, told));
    done();
  }

  open(form);
}

function open(...shown) {
  const returnTo = document.activeElement;
  dialog.replaceChildren(...shown);
  dialog.onclose = () => {
    opening += 1;
    if (returnTo?.isConnected && !returnTo.closest("[hidden]")) returnTo.focus();
    else document.getElementById("sessions-title").focus();
  };
  dialog.showModal();
}

/** Say that something did not work, and why. */
export function tell(title, why) {
  open(el("div", { class: "body" }, heading(title), el("p", {}, why), el("div", { class: "buttons" }, closing("Close", true))));
}

const heading = (title) => el("h2", { id: "dialog-title" }, title);

const listed = (said) => el("ul", { class: "sentences" }, said.map((each) => el("li", {}, each)));

const warning = (said) => el("p", { class: "warn" }, said);

/** Post, and wait for the operation where the answer is that it takes longer. */
async function carriedOut(path, body) {
  const { status, document, location } = await request(path, { method: "POST", body });
  if (status !== 202) return document;
  let operation = document;
  while (operation.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    ({ document: operation } = await request(location));
  }
  if (operation.problem) throw new Error(operation.problem.detail ?? operation.problem.title);
  return operation.document;
}

const of = (session) => `/api/v1/sessions/${encodeURIComponent(session.session_id)}`;

/** Ask whether to end what is open in a session; say what that is. */
export function askRelease(session, { byId, document: all, observedAt }, done) {
  const parts = [
    el("p", {}, el("strong", {}, nameOf(session))),
    el("p", {}, "This ends:"), listed(endings(session, all, observedAt)),
    ...cautions(session, all).map(warning),
    ...remarks(session, byId).map((said) => el("p", {}, said)),
    el("label", {}, "Why? (kept in the journal, and in what is ended)", el("input", { name: "reason", maxlength: 500, autocomplete: "off" })),
  ];
  ask({
    title: "Release this session?", parts, confirm: "End it", ends: true, done,
    act: async ({ reason }) => {
      const answer = await carriedOut(`${of(session)}/release`, reason.trim() ? { reason: reason.trim() } : {});
      return answer.outcomes.flatMap((outcome) => outcomeParts(outcome, session, byId));
    },
  });
}

function endings(session, all, observedAt) {
  const since = Math.max(0, Date.parse(all.now) - observedAt) / 1000;
  const own = session.calls.map((call) => `The ${call.tool} call, ${call.status} for ${duration(call.age_seconds + since)}.`);
  const turns = session.open_message_ids.length;
  const turn = turns ? [`${turns === 1 ? "The turn" : `The ${turns} turns`} that ${turns === 1 ? "is" : "are"} open in it.`] : [];
  const below = descendants(session, all).filter((each) => each.unfinished).map((child) => {
    const tools = child.calls.map((call) => call.tool).join(", ");
    return `Below it, “${nameOf(child)}”${tools ? ` with its open ${child.calls.length === 1 ? "call" : "calls"} of ${tools}` : ""}.`;
  });
  const found = [...own, ...turn, ...below];
  return found.length ? found : ["Whatever its server is at work on for it."];
}

function descendants(session, all) {
  const children = all.sessions.filter((each) => each.parent_id === session.session_id);
  return children.flatMap((child) => [child, ...descendants(child, all)]);
}

function cautions(session, all) {
  const said = [];
  const queued = session.queued_prompts;
  if (session.state !== "stuck") said.push(`The watchdog leaves it alone: ${sentence(session.why ?? "it is not stuck")} Healthy work may end.`);
  if (session.calls.length > 1) said.push(`All ${session.calls.length} open calls end, healthy ones too.`);
  if (queued) said.push(`${count(queued, "prompt")} queued behind the turn ${queued === 1 ? "is" : "are"} dropped.`);
  if (all.mandate === "dry_run") said.push("This watchdog runs dry: it only says what it would do.");
  if (all.mandate === "observing") said.push("This watchdog only observes: it will refuse.");
  return said;
}

function remarks(session, byId) {
  const said = [];
  if (session.on_hold) said.push("Its hold ends, too.");
  if (byId.has(session.parent_id)) said.push(`“${nameOf(byId.get(session.parent_id))}” above it gets the error, and goes on.`);
  return said;
}

function outcomeParts(outcome, session, byId) {
  const look = result(outcome.result);
  const other = outcome.session_id === session.session_id ? null : byId.get(outcome.session_id);
  const name = other ? `${nameOf(other)}: ` : "";
  return [
    el("p", {}, name, el("span", { class: "chip", "data-tone": look.tone }, look.label)),
    el("p", {}, sentence(outcome.why)),
    ...(outcome.steps.length ? [stepList(outcome.steps)] : []),
  ];
}

function durations() {
  const choices = [["", "until somebody ends it"], ["1h", "for 1 hour"], ["4h", "for 4 hours"], ["1d", "for 1 day"]];
  const options = choices.map(([value, label]) => el("option", { value }, label));
  return el("label", {}, "How long?", el("select", { name: "for" }, options));
}

const holdBody = (values) => (values.for ? { for: values.for } : {});

/** Ask how long to leave a session alone. */
export function askHold(session, done) {
  ask({
    title: "Leave this session alone?", confirm: "Hold it", done,
    parts: [el("p", {}, el("strong", {}, nameOf(session))), el("p", {}, "The watchdog then ends nothing in it, however long it takes."), durations()],
    act: async (values) => holdParts((await request(`${of(session)}/hold`, { method: "POST", body: holdBody(values) })).document, session.session_id),
  });
}

/** Ask how long to leave everything alone. */
export function askPause(done) {
  ask({
    title: "Pause everything?", confirm: "Pause", done,
    parts: [el("p", {}, "The watchdog goes on looking, and ends nothing."), durations()],
    act: async (values) => holdParts((await request("/api/v1/pause", { method: "POST", body: holdBody(values) })).document, "*"),
  });
}

function holdParts(answer, sessionId) {
  const hold = answer.on_hold.find((each) => each.session_id === sessionId);
  return [el("p", {}, hold ? sentence(hold.why) : "It is not on hold.")];
}

/** Ask whether to put an intervention's rows back. */
export function askUndo(intervention, rows, done) {
  ask({
    title: `Undo intervention ${intervention.id}?`, confirm: "Undo it", done,
    parts: [
      el("p", {}, `${count(rows.length, "row")} of session ${intervention.verdict.session_id} will read as before:`),
      listed(rows.map((row) => `${row.table} ${row.id}`)),
      el("p", {}, "The session is then on hold, since its work would be ended again. If anything happened in it since, nothing is touched."),
    ],
    act: async () => {
      const answer = await carriedOut(`/api/v1/interventions/${intervention.id}/undo`, undefined);
      const look = result(answer.result);
      return [
        el("p", {}, el("span", { class: "chip", "data-tone": look.tone }, look.label)),
        el("p", {}, sentence(answer.why)),
        ...(answer.steps.length ? [stepList(answer.steps)] : []),
      ];
    },
  });
}
