/* What states, results and times are called. */

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A duration in words, with at most two units. */
export function duration(seconds) {
  if (seconds > 0 && seconds < 1) return `${Number(seconds.toFixed(2))} s`;
  const whole = Math.floor(Math.max(0, seconds));
  if (whole < 2 * MINUTE) return `${whole} s`;
  if (whole < HOUR) return two(whole, MINUTE, "min", 1, "s");
  if (whole < DAY) return two(whole, HOUR, "h", MINUTE, "min");
  return two(whole, DAY, "d", HOUR, "h");
}

function two(seconds, large, largeName, small, smallName) {
  const rest = Math.floor((seconds % large) / small);
  const first = `${Math.floor(seconds / large)} ${largeName}`;
  return rest ? `${first} ${rest} ${smallName}` : first;
}

const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayTime = new Intl.DateTimeFormat(undefined, {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

/** A moment, with its day unless that is today. */
export function moment(iso, now = Date.now()) {
  const at = new Date(iso);
  const sameDay = at.toDateString() === new Date(now).toDateString();
  return (sameDay ? clockTime : dayTime).format(at);
}

/** A count with its noun. */
export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

const STATES = {
  stuck: ["stuck", "Stuck"],
  orphan: ["stuck", "Stuck: nobody executes it"],
  stuck_tool: ["stuck", "Stuck: its tool is past the limit"],
  stuck_task: ["stuck", "Stuck: its task is past the limit"],
  idle_session: ["stuck", "Stuck: silent past the limit"],
  unanswered: ["stuck", "Unanswered past the limit"],
  given_up: ["given-up", "Given up: needs a person"],
  no_witness: ["unsure", "Nobody can tell"],
  clock_stopped: ["unsure", "Its clock stands still"],
  first_look: ["unsure", "Needs a second look"],
  cooling_down: ["unsure", "Waits for the next attempt"],
  waiting_on_human: ["person", "Waits for a person"],
  waiting_on_child: ["work", "Waits for a session below it"],
  waiting_on_sibling: ["unsure", "Waits for healthy work beside it"],
  retrying: ["work", "Waits for its provider"],
  recently_active: ["work", "At work"],
  within_limit: ["work", "Within its limit"],
  on_hold: ["hold", "On hold"],
  acting: ["unsure", "Being ended now"],
  finished: ["quiet", "Nothing is open in it"],
  unjudged: ["unsure", "Could not be judged"],
};

/** What a session's state looks like and is called: its tone and its label. */
export function state(session) {
  const [tone, label] = STATES[nameOf(session)] ?? ["quiet", plain(nameOf(session))];
  return { tone, label };
}

const URGENT = ["stuck", "given_up", "cooling_down"];

/** How early it is shown: what is past its limit, what waits for a person, the rest. */
export function urgency(session) {
  if (session.acting || URGENT.includes(session.state)) return 0;
  return session.state === "waiting_on_human" ? 1 : 2;
}

function nameOf(session) {
  if (session.acting) return "acting";
  if (session.given_up) return "given_up";
  if (session.state !== "stuck") return session.state;
  return session.findings.find((finding) => finding.stuck)?.name ?? "stuck";
}

const RESULTS = {
  recovered: ["good", "Ended, and proven"],
  unchanged: ["plain", "Nothing was to be done"],
  ineffective: ["bad", "Asked to end, and stayed open"],
  unreachable: ["bad", "Can't be reached"],
  failed: ["bad", "Failed"],
  dry_run: ["plain", "Dry run: nothing was done"],
  undone: ["good", "Undone"],
  already_undone: ["plain", "Undone before"],
  not_undone: ["bad", "Not undone"],
};

/** What a result looks like and is called. */
export function result(name) {
  const [tone, label] = RESULTS[name] ?? ["plain", plain(name)];
  return { tone, label };
}

/** A name of the contract, as words. */
export function plain(name) {
  const words = String(name).replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const ISO = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/g;

/** A clause as a sentence, with moments as people read them. A name at its start stays as it is written. */
export function sentence(said) {
  if (!said) return "";
  const clause = said.replace(ISO, (iso) => moment(iso));
  const word = /^[a-z]+(?=[\s,:;.']|$)/.test(clause) && !clause.startsWith("opencode");
  const first = word ? clause.charAt(0).toUpperCase() + clause.slice(1) : clause;
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
