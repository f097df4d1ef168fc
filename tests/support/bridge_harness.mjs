// A process with the plugin in it, without opencode around it: the tests' own answers, and a word for what happens.
import { createServer } from "node:http"

const [plugin, how] = process.argv.slice(2)
const { OpencodeWatchdogBridge } = await import(plugin)
const inside = async (request) => {
  const { pathname, search } = new URL(request.url)
  if (pathname === "/throws") throw new Error("of the process itself")
  if (pathname === "/endless") {
    request.signal.addEventListener("abort", () => console.log("aborted"))
    let ticking
    const start = (stream) => { ticking = setInterval(() => stream.enqueue(new TextEncoder().encode("data: tick\n\n")), 50) }
    const cancel = () => { clearInterval(ticking); console.log("cancelled") }
    return new Response(new ReadableStream({ start, cancel }), { headers: { "content-type": "text/event-stream" } })
  }
  return Response.json({
    by: "inside", method: request.method, path: pathname + search, body: await request.text(),
    headers: Object.fromEntries(request.headers),
  })
}
let serverUrl = new URL("http://localhost:1")
if (how === "listens") {
  const server = createServer((asked, reply) => reply.end(JSON.stringify({ by: "outside", headers: asked.headers })))
  await new Promise((go) => server.listen(0, "127.0.0.1", go))
  serverUrl = new URL(`http://127.0.0.1:${server.address().port}`)
}
const getConfig = () => ({ fetch: inside, baseUrl: "http://localhost:4096", headers: { authorization: "Basic of-the-process", "x-opencode-directory": "/elsewhere" } })
const input = how === "odd" ? {} : { serverUrl, client: { _client: { getConfig } } }
const started = [await OpencodeWatchdogBridge(input), await OpencodeWatchdogBridge(input)]
console.log("loaded", JSON.stringify(started))
if (how === "ends") setTimeout(() => {}, 200)
else setInterval(() => {}, 1000)
