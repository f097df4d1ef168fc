"""A stdio MCP server whose tools are listed like any other and never answer."""

import json
import sys
from typing import Any

Json = dict[str, Any]

TOOL = {
    "name": "never",
    "description": "Waits for something that never happens.",
    "inputSchema": {"type": "object", "properties": {}},
}


def reply(request: Json) -> Json | None:
    """The result of one request, or None where this server stays silent."""
    match request.get("method"):
        case "initialize":
            version = request["params"]["protocolVersion"]
            info = {"name": "silent", "version": "1"}
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            return {"tools": [TOOL]}
        case "ping":
            return {}
    return None


def main() -> None:
    """Answer until the other side closes."""
    for line in sys.stdin:
        request: Json = json.loads(line)
        result = reply(request)
        if result is not None and "id" in request:
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
