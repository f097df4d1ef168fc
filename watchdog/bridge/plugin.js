// opencode-watchdog's bridge: a Unix socket, for this user alone, to the opencode process that loads this file.
// It does nothing by itself, and what goes wrong in it stays in it. `opencode-watchdog bridge remove` takes it away.
import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs"
import { homedir } from "node:os"
import { isAbsolute, join } from "node:path"

const PROTOCOL = 1
const OPEN = Symbol.for("opencode-watchdog.bridge") // one for a process, however many folders it has
const LONGEST_PATH = 100
const attempt = (action, otherwise) => { try { return action() } catch { return otherwise } }
const at = (base, ...inner) => base && isAbsolute(base) ? [join(base, "opencode-watchdog", ...inner)] : []

// Whether this process listens there itself. Then it is asked there: inside `serve`, some versions have another state.
const listens = (url) => {
  const port = ":" + Number(url.port || 80).toString(16).toUpperCase().padStart(4, "0")
  const table = (name) => attempt(() => readFileSync(`/proc/self/net/${name}`, "utf8"), "").split("\n")
  const rows = ["tcp", "tcp6"].flatMap(table).map((row) => row.trim().split(/\s+/))
  const sockets = rows.filter((row) => row[3] === "0A" && row[1].endsWith(port)).map((row) => `socket:[${row[9]}]`)
  const open = sockets.length ? readdirSync("/proc/self/fd") : []
  const own = new Set(open.map((number) => attempt(() => readlinkSync(`/proc/self/fd/${number}`))))
  const count = sockets.filter((socket) => own.has(socket)).length
  if (count && count < sockets.length) throw new Error("nobody knows which process answers there")
  return count > 0
}

// What somebody asked over the socket, answered by the process itself; nothing of theirs but the question is passed on.
const answer = async (input, asked, close) => {
  const url = attempt(() => new URL(input.serverUrl))
  const outside = url !== undefined && listens(url)
  const { pathname, search } = new URL(asked.url)
  if (pathname === "/opencode-watchdog") {
    if (asked.method === "DELETE") setTimeout(close, 100)
    return Response.json({ protocol: PROTOCOL, listens: outside })
  }
  const inner = input.client._client.getConfig()
  const [given, type] = [new Headers(inner.headers).get("authorization"), asked.headers.get("content-type")]
  const request = new Request(new URL(pathname + search, outside ? url : inner.baseUrl), {
    method: asked.method,
    headers: { ...(given && { authorization: given }), ...(type && { "content-type": type }) },
    body: asked.body ? await asked.arrayBuffer() : undefined,
    signal: asked.signal,
  })
  const found = await (outside ? fetch : inner.fetch)(request)
  return new Response(found.body, {
    status: found.status,
    headers: { "content-type": found.headers.get("content-type") ?? "" },
  })
}

const open = (input, folder) => {
  const path = join(folder, `${process.pid}.sock`)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const { mode, uid } = lstatSync(folder)
  if (uid !== process.getuid() || mode & 0o077 || path.length > LONGEST_PATH) return false
  const leave = () => attempt(() => rmSync(path, { force: true }))
  leave() // of an earlier process with this number
  const server = Bun.serve({
    unix: path,
    idleTimeout: 0,
    development: false,
    fetch: (asked) => answer(input, asked, () => { leave(); server.stop(true) }),
    error: () => new Response(null, { status: 502 }),
  })
  server.unref() // no process lives longer for it
  attempt(() => chmodSync(path, 0o600))
  process.on("exit", leave)
  return true
}

export const OpencodeWatchdogBridge = async (input) => {
  if (globalThis[OPEN]) return {}
  globalThis[OPEN] = true
  const { XDG_RUNTIME_DIR, XDG_STATE_HOME } = process.env
  const state = isAbsolute(XDG_STATE_HOME ?? "") ? XDG_STATE_HOME : attempt(() => join(homedir(), ".local", "state"))
  const folders = [...at(XDG_RUNTIME_DIR), ...at(state, "bridges")]
  folders.some((folder) => attempt(() => open(input, folder), false))
  return {}
}
