"""Answers in JSON that any row can be part of."""

from starlette.responses import JSONResponse

from watchdog.shown import in_json


class PlainJson(JSONResponse):
    """JSON in ASCII: a row may hold half a surrogate pair, which has no UTF-8."""

    def render(self, content: object) -> bytes:
        """The body."""
        return in_json(content).encode("ascii")
