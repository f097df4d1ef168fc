"""Answers in JSON that any row can be part of."""

import json

from starlette.responses import JSONResponse


class PlainJson(JSONResponse):
    """JSON in ASCII: a row may hold half a surrogate pair, which has no UTF-8."""

    def render(self, content: object) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
