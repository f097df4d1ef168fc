"""Errors as problem documents (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from watchdog.errors import NotActing
from watchdog.operating.problems import OF_ERRORS
from watchdog.shown import in_json

MEDIA_TYPE: Final = "application/problem+json"
_TYPES: Final = "urn:opencode-watchdog:problem:"
_TITLES: Final = {
    "invalid-request": "The request is not valid",
    "unauthorized": "A token is needed",
    "read-only": "This token can only read",
    "foreign-host": "Not a name of this API",
    "foreign-origin": "Not a page that may call this API",
    "not-found": "No such route",
    "method-not-allowed": "Not with this method",
    "no-such-session": "No such session",
    "no-such-message": "No such message",
    "no-such-intervention": "No such intervention",
    "no-such-operation": "No such operation",
    "not-acting": "This watchdog does not act",
    "dry-run": "This watchdog runs dry",
    "no-journal": "There is no journal",
    "too-large": "The body is too large",
    "too-slow": "The body takes too long",
    "stale-link": "The link is used up",
    "too-many-requests": "Too many requests",
    "database-unusable": "The database can't be used",
    "journal-unusable": "The journal can't be used",
    "server-unusable": "No server did it",
    "busy": "Not at this moment",
    "internal": "An error of the watchdog's own",
}
_OF_STATUSES: Final = {404: "not-found", 405: "method-not-allowed", 408: "too-slow", 413: "too-large"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What went wrong with a request.

    Attributes:
        name: the last part of its type.
        detail: a sentence for people.
        more: further fields.
        headers: headers of the answer.
    """

    name: str
    status: int
    detail: str
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, instance: str) -> dict[str, Any]:
        """The problem as JSON; `instance` is the requested path."""
        return {
            "type": _TYPES + self.name,
            "title": _TITLES[self.name],
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            **self.more,
        }

    def response(self, instance: str) -> Response:
        """The answer."""
        body = in_json(self.document(instance))
        return Response(body, status_code=self.status, media_type=MEDIA_TYPE, headers=dict(self.headers))


def problem_of(error: Exception) -> Problem:
    """The problem for an error. Of an error of our own it only says that it happened."""
    for kind, name, status in OF_ERRORS:
        if isinstance(error, kind):
            more = {"holder_pid": error.holder_pid} if isinstance(error, NotActing) else {}
            return Problem(name=name, status=status, detail=str(error), more=more)
    return Problem(name="internal", status=500, detail="The request failed; the log of the watchdog says why.")


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer with the problem of a `WatchdogError`, or of any other error."""
    return problem_of(error).response(request.url.path)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer with the problem of an error of the framework: no such route, a wrong method, a body too large."""
    if not isinstance(error, HTTPException):
        return await answer_error(request, error)
    name = _OF_STATUSES.get(error.status_code, "invalid-request")
    headers = dict(error.headers or {})
    problem = Problem(name=name, status=error.status_code, detail=f"{error.detail}.", headers=headers)
    return problem.response(request.url.path)


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Answer with what is wrong in a request, and where; it repeats nothing that was sent."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"where": ".".join(str(part) for part in each["loc"]), "what": str(each["msg"])} for each in found]
    places = ", ".join(each["where"] for each in errors)
    problem = Problem(name="invalid-request", status=422, detail=f"Not valid: {places}.", more={"errors": errors})
    return problem.response(request.url.path)
