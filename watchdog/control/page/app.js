/* The page: what is asked when, and what is said of the connection and of the watchdog itself. */

import { comeIn, isIn, learnTime, listen, request, serverNow } from "./api.js";
import { eachSecond, freeze, shownNow } from "./clock.js";
import { askHold, askPause, askRelease, askUndo, tell } from "./dialogs.js";
import { attribute, el, keyed, shown, text } from "./dom.js";
import { journalView } from "./journal.js";
import { showSessions } from "./sessions.js";
import { count, duration, moment, sentence } from "./words.js";

const SHORTEST_POLL_MS = 1_000;
const GAP_MS = 200;
const HIDDEN_POLL_MS = 30_000;
const LATE_LOOKS = 6;
const LATE_SECONDS = 30;
const JOURNAL_EVENTS = new Set(["hello", "verdict", "outcome", "failed", "on_hold", "hold_ended"]);

const at = (id) => document.getElementById(id);
const now = { all: null, connection: "connecting", lostAt: 0, retryAt: 0, problem: null, journalProblem: null };
let retry = () => {};
let listening = null;

const journal = journalView({
  list: at("journal"), empty: at("journal-empty"), more: at("older"),
  actions: { undo: (intervention, rows) => askUndo(intervention, rows, refreshAll) },
});

const actions = {
  release: (session, context) => askRelease(session, context, refreshAll),
  hold: (session) => askHold(session, refreshAll),
  unhold: (session) => quietly(() => request(`/api/v1/sessions/${encodeURIComponent(session.session_id)}/unhold`, { method: "POST" })),
};

/** At most one request at a time; what is asked for meanwhile is asked once more, and not at once. */
function single(work) {
  let running = null;
  let again = false;
  return async function run() {
    if (running) {
      again = true;
      return running;
    }
    running = work();
    await running.finally(() => { running = null; });
    if (again) {
      again = false;
      await new Promise((resolve) => setTimeout(resolve, GAP_MS));
      await run();
    }
  };
}

const refreshSessions = single(async () => {
  try {
    const { document } = await request("/api/v1/sessions");
    learnTime(document.now);
    now.all = document;
    now.problem = null;
    draw();
  } catch (error) {
    failed(error);
  }
});

const refreshJournal = single(async () => {
  try {
    await journal.refresh();
    now.journalProblem = null;
  } catch (error) {
    now.journalProblem = error.message;
    journal.unavailable(error.message);
    drawNotices();
  }
});

function refreshAll() {
  refreshSessions();
  refreshJournal();
}

async function quietly(work) {
  try {
    await work();
  } catch (error) {
    tell("That did not work", error.message);
  }
  refreshAll();
}

function failed(error) {
  if (error.status === 401) {
    refuse(error.message);
    return;
  }
  if (error.status !== 0) now.problem = error.message;
  drawNotices();
}

function refuse(why) {
  listening?.abort();
  listening = null;
  shown(at("content"), false);
  shown(at("welcome"), true);
  text(at("refused"), why);
  shown(at("refused"), why);
  now.connection = "refused";
  drawConnection();
  drawNotices();
}

function draw() {
  const { all } = now;
  const stuck = all.sessions.filter((session) => session.state === "stuck").length;
  text(at("database"), `\u200e${all.database}`);
  attribute(at("database"), "title", all.database);
  shown(at("sessions-loading"), false);
  shown(at("sessions-empty"), !all.sessions.length);
  text(at("empty-title"), all.unavailable ? "Not known." : "All quiet.");
  text(at("empty-text"), all.unavailable ? "The database can't be read now." : "No session has anything open.");
  const { unfinished_sessions: unfinished, open_tool_calls: calls, damaged_rows: damaged } = all.counts;
  const parts = [`${stuck} stuck`, `${unfinished} unfinished`, count(calls, "open call")];
  if (damaged) parts.push(count(damaged, "unreadable row"));
  text(at("summary"), parts.join(" · "));
  document.title = stuck ? `(${stuck} stuck) opencode-watchdog` : "opencode-watchdog";
  showSessions(at("sessions"), all, actions);
  drawConnection();
  drawNotices();
}

const paused = () => now.all?.on_hold.find((hold) => hold.everything);

function drawMandate() {
  const looks = {
    acting: ["work", "Acting"], observing: ["unsure", "Only observing"], dry_run: ["unsure", "Dry run"],
  };
  const [tone, label] = paused() ? ["hold", "Paused"] : looks[now.all.mandate] ?? ["quiet", now.all.mandate];
  attribute(at("mandate"), "data-tone", tone);
  text(at("mandate"), label);
  shown(at("mandate"), now.connection === "live");
  text(at("pause"), paused() ? "Resume" : "Pause everything…");
}

function drawConnection() {
  const looks = {
    connecting: ["quiet", "Connecting"], live: ["good", "Live"], lost: ["bad", "Connection lost"], refused: ["bad", "No access"],
  };
  const [tone, label] = looks[now.connection];
  attribute(at("connection"), "data-tone", tone);
  text(at("connection"), label);
  freeze(now.connection === "lost" && now.all !== null);
  if (now.all) drawMandate();
}

const sinceLook = () => Math.max(0, serverNow() - Date.parse(now.all.observed_at)) / 1000;

function notices() {
  const { all } = now;
  const said = [];
  const say = (key, tone, strong, words, button = null) => said.push({ key, tone, strong, words, button });
  if (now.connection === "lost") {
    const shownAt = all ? `What you see is as of ${moment(all.observed_at)}; its clocks stand still.` : "";
    say("lost", "bad", "The connection to the watchdog is lost.", `${now.lostWhy} ${shownAt} It is tried again.`, "Try now");
  }
  if (now.problem) say("problem", "bad", "The watchdog can't answer.", now.problem);
  if (now.journalProblem && !now.problem) say("journal", "bad", "The journal can't be shown.", now.journalProblem);
  if (!all || now.connection === "refused") return said;
  if (all.unavailable) say("unavailable", "bad", "The watchdog can't look.", `${sentence(all.unavailable)} What follows is as of ${moment(all.observed_at)}.`);
  else if (now.connection === "live" && sinceLook() > Math.max(LATE_SECONDS, LATE_LOOKS * all.poll_interval_seconds)) {
    say("late", "bad", "No look for a while.", `The last one was at ${moment(all.observed_at)}. The log of the watchdog says more.`);
  }
  const pause = paused();
  if (pause) say("paused", "hold", "Paused.", sentence(pause.why));
  if (all.mandate === "dry_run") say("dry", "unsure", "Dry run.", "It says what it would do, and does nothing.");
  if (all.mandate === "observing") {
    const holder = all.holder_pid ? `Another watchdog (pid ${all.holder_pid}) acts on this database.` : "It has not begun to act, or another watchdog acts on this database.";
    say("observing", "unsure", "Only observing.", holder);
  }
  for (const why of all.degraded) say(why, "unsure", "Degraded.", why);
  return said;
}

function drawNotices() {
  keyed(at("notices"), notices(), (each) => each.key, noticeView);
}

function noticeView({ tone, button }) {
  const strong = el("strong");
  const words = el("span");
  const again = button ? el("button", { type: "button", on: { click: () => retry() } }, button) : null;
  const node = el("div", { class: "notice", "data-tone": tone }, el("p", {}, strong, " ", words), again);
  return {
    node,
    update(each) {
      text(strong, each.strong);
      text(words, each.words);
    },
  };
}

function drawLooked() {
  if (!now.all || now.connection === "refused") return;
  const seconds = Math.max(0, (now.connection === "lost" ? serverNow() : shownNow()) - Date.parse(now.all.observed_at)) / 1000;
  text(at("looked"), `Looked ${duration(seconds)} ago`);
  drawNotices();
}

function start() {
  shown(at("welcome"), false);
  shown(at("content"), true);
  listening?.abort();
  listening = new AbortController();
  now.connection = "connecting";
  drawConnection();
  refreshAll();
  listen("/api/v1/events", {
    signal: listening.signal,
    retryNow: () => new Promise((resolve) => { retry = resolve; }),
    onOpen() {
      now.connection = "live";
      drawConnection();
      drawNotices();
    },
    onEvent({ type }) {
      refreshSessions();
      if (JOURNAL_EVENTS.has(type)) refreshJournal();
    },
    onLost(error) {
      if (error.status === 401) {
        refuse(error.message);
        return;
      }
      now.connection = "lost";
      now.lostWhy = error instanceof TypeError || error.name === "AbortError" ? "It does not answer." : error.message;
      drawConnection();
      drawNotices();
    },
  });
}

async function enter() {
  try {
    await comeIn();
    if (isIn()) start();
    else refuse("");
  } catch (error) {
    refuse(error.message);
  }
}

async function poll() {
  for (;;) {
    const interval = Math.max(SHORTEST_POLL_MS, (now.all?.poll_interval_seconds ?? 1) * 1000);
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? HIDDEN_POLL_MS : interval));
    if (now.connection === "live") await refreshSessions();
  }
}

at("older").addEventListener("click", () => journal.older().catch(failed));
at("pause").addEventListener("click", () => (paused() ? quietly(() => request("/api/v1/resume", { method: "POST" })) : askPause(refreshAll)));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && now.connection === "live") refreshAll();
});
addEventListener("hashchange", () => {
  if (location.hash) enter();
});
eachSecond(at("looked"), drawLooked);
enter();
poll();
