/* The HTTP API: the way in, the requests, and the stream of events. */

const SESSION = "opencode-watchdog.session";
const SILENCE_MS = 45_000;
const PAUSES_MS = [1_000, 2_000, 5_000, 10_000, 20_000];

/** What the API refused, with the sentence of its problem document. */
export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.name = "Problem";
    this.status = status;
  }
}

/** Take the code of `#code=…` out of the address bar, and change it for a session that this tab keeps. It works once. */
export async function comeIn() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (!code) return false;
  history.replaceState(null, "", location.pathname + location.search);
  const { document } = await request("/door/session", { method: "POST", body: { code } });
  sessionStorage.setItem(SESSION, document.session);
  return true;
}

export function isIn() {
  return sessionStorage.getItem(SESSION) !== null;
}

function headers(more = {}) {
  return { ...more, Authorization: `Bearer ${sessionStorage.getItem(SESSION) ?? ""}` };
}

let ahead = null;

/** The watchdog's own time, in ms, whatever this machine's clock shows. */
export function serverNow() {
  return Date.now() + (ahead ?? 0);
}

/** Learn that time from an answer that says when it was written. An answer takes time: the quickest tells most. */
export function learnTime(iso) {
  const difference = Date.parse(iso) - Date.now();
  const wasSet = ahead === null || Math.abs(difference - ahead) > 5_000;
  ahead = wasSet ? difference : Math.max(ahead, difference);
}

/** Ask, and answer `{status, document, location}`. Raises a Problem for whatever is no success. */
export async function request(path, { method = "GET", body, signal } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      cache: "no-store",
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The watchdog does not answer. Is it still running?", 0);
  }
  const document = await response.json().catch(() => null);
  if (!response.ok) throw problem(response, document);
  return { status: response.status, document, location: response.headers.get("Location") };
}

function problem(response, document) {
  const said = document?.detail ?? document?.title;
  const wait = response.headers.get("Retry-After");
  const again = wait ? ` Try again in ${wait} s.` : "";
  return new Problem(`${said ?? `The watchdog answered ${response.status}.`}${again}`, response.status);
}

/**
 * Hear the events until the signal is aborted, and connect again when the connection is lost.
 * EventSource can't send what lets in, so the stream is read here.
 */
export async function listen(path, { onOpen, onEvent, onLost, signal, retryNow }) {
  let last = null;
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      await hear(path, last, signal, () => {
        failures = 0;
        onOpen();
      }, (event) => {
        last = event.id ?? last;
        onEvent(event);
      });
      throw new Problem("The watchdog closed the connection.", 0);
    } catch (error) {
      if (signal.aborted) return;
      const pause = PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)];
      onLost(error, pause);
      if (error.status === 401) return;
      await Promise.race([new Promise((done) => setTimeout(done, pause)), retryNow()]);
    }
  }
}

async function hear(path, last, signal, onOpen, onEvent) {
  const silence = new AbortController();
  const heard = watchFor(() => silence.abort());
  try {
    const response = await fetch(path, {
      cache: "no-store",
      headers: headers({ Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) }),
      signal: AbortSignal.any([signal, silence.signal]),
    });
      if (!response.ok) throw problem(response, await response.json().catch(() => null));
    onOpen();
    const parse = eventParser(onEvent);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      heard.again();
      parse(read.value);
    }
  } finally {
    heard.stop();
  }
}

function watchFor(onSilence) {
  let timer = setTimeout(onSilence, SILENCE_MS);
  return {
    again() {
      clearTimeout(timer);
      timer = setTimeout(onSilence, SILENCE_MS);
    },
    stop: () => clearTimeout(timer),
  };
}

/** The parser of an event stream, after the HTML standard: feed it text in pieces of any size. */
export function eventParser(onEvent) {
  let rest = "";
  let event = { type: "message", data: [], id: null };
  const field = (line) => {
    const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (name === "event") event.type = value ?? "";
    else if (name === "data") event.data.push(value ?? "");
    else if (name === "id") event.id = value ?? "";
  };
  return (piece) => {
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line !== "") {
        if (!line.startsWith(":")) field(line);
        continue;
      }
      if (event.data.length) onEvent({ ...event, data: event.data.join("\n") });
      event = { type: "message", data: [], id: null };
    }
  };
}
