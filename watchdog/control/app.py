"""The application: the routes, the page, health and metrics, behind one door."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from watchdog.control.access.connections import Connections
from watchdog.control.access.door import EXPOSED, Door
from watchdog.control.access.gate import DOORS, HEALTH, Gate
from watchdog.control.access.problems import MEDIA_TYPE, Problem, answer_error, answer_http_error, answer_invalid
from watchdog.control.answers import PlainJson
from watchdog.control.documents import API
from watchdog.control.files import INDEX, PageFile, page_files
from watchdog.control.health import Doctor, told
from watchdog.control.routes import Services, router
from watchdog.control.shapes import EnterBody, ProblemShape, ProofBody
from watchdog.control.shapes import Health as HealthShape
from watchdog.errors import Busy, WatchdogError
from watchdog.observing.endpoints import normal
from watchdog.ports import Clock
from watchdog.settings.addresses import Address

OPEN_PATHS: Final = frozenset({"/", "/page/", *HEALTH})
"""Paths without a token: the page's own files, which hold nothing, and health, which says nothing private."""
_ALWAYS: Final = {
    "401": "the token is missing or wrong",
    "403": "the request came by a foreign name, or from a foreign page",
    "422": "an id, a parameter or the body is not what it must be",
    "429": "too many requests",
    "503": "it can't be done just now",
}
_SOMETIMES: Final = {
    "400": "the body can't be read",
    "408": "the body takes too long",
    "413": "the body is too large",
    "404": "there is none",
    "409": "not in this state of the watchdog",
}


def make_app(services: Services, doctor: Doctor, gate: Gate, clock: Clock, connections: Connections) -> ASGIApp:
    """Put the application together."""
    app = FastAPI(
        title="opencode-watchdog",
        summary="The way out, and the window, of a running watchdog",
        version=services.program,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            WatchdogError: answer_error,
            HTTPException: answer_http_error,
            RequestValidationError: answer_invalid,
            Exception: answer_error,
        },
    )
    app.state.services = services
    app.include_router(router)
    _add_health(app, doctor)
    _add_metrics(app, services)
    _add_page(app, page_files())
    _add_doors(app, gate, clock)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    inner: ASGIApp = app
    if gate.names.origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=sorted(gate.names.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=EXPOSED,
        )
    return Door(inner, gate=gate, connections=connections, clock=clock)


def _add_health(app: FastAPI, doctor: Doctor) -> None:
    answers: dict[int | str, dict[str, Any]] = {200: {"model": HealthShape}, 503: {"model": HealthShape}}

    @app.get("/healthz", operation_id="healthz", summary="Whether the loop ticked lately", responses=answers)
    async def healthz() -> Response:
        """For a supervisor that restarts it."""
        return told(doctor.alive())

    @app.get("/readyz", operation_id="readyz", summary="Whether all that it needs can be used", responses=answers)
    async def readyz() -> Response:
        """For alerts."""
        return told(doctor.ready())


def _add_metrics(app: FastAPI, services: Services) -> None:
    @app.get(
        "/metrics",
        operation_id="metrics",
        summary="For Prometheus",
        dependencies=[Security(HTTPBearer(auto_error=False, scheme_name="token"))],
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics(request: Request) -> Response:
        """See docs/metrics.md."""
        kind, content = services.metrics(request.headers.get("accept"))
        return Response(content, headers={"Content-Type": kind})


def _add_page(app: FastAPI, files: Mapping[str, PageFile]) -> None:
    def answer(request: Request, file: PageFile) -> Response:
        headers = {"Cache-Control": "no-cache", "ETag": file.mark}
        if request.headers.get("if-none-match") == file.mark:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers={**headers, "Content-Type": file.kind})

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer(request, files[INDEX])

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "The page has no such file")
        return answer(request, files[name])


def _add_doors(app: FastAPI, gate: Gate, clock: Clock) -> None:
    """Add the routes for `page` and its link. Neither gets the token, and neither sends it."""
    prove, enter = sorted(DOORS)

    @app.post(prove, include_in_schema=False)
    async def proof(request: Request, body: ProofBody) -> Response:
        """Prove that this is what `page` takes it for: at this address, to this connection's own end."""
        host, port = request.scope["server"]
        address = str(Address(host=normal(host), port=port))
        found = gate.keys.prove(address=address, nonce=body.nonce, now_seconds=clock.read().awake_seconds)
        if found is None:
            raise Busy("There is no token that could be used; the log of the watchdog says why.")
        ticket, said = found
        return PlainJson({"ticket": ticket, "proof": said})

    @app.post(enter, include_in_schema=False)
    async def session(request: Request, body: EnterBody) -> Response:
        """Exchange the code of a link for a browser's session."""
        given = gate.keys.session(body.code, now_seconds=clock.read().awake_seconds)
        if given is None:
            detail = "The link was used already, or is older than a minute; `opencode-watchdog page` makes a new one."
            return Problem(name="stale-link", status=401, detail=detail).response(request.url.path)
        return PlainJson({"session": given})


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document as FastAPI writes it, with problem documents for every error."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, summary=app.summary, version=app.version, routes=app.routes, openapi_version="3.1.0"
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = ProblemShape.model_json_schema()
    for path in document["paths"].values():
        for operation in path.values():
            _tell_problems(operation)
    app.openapi_schema = document
    return document


def _tell_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    health = "503" in responses and "security" not in operation
    if "requestBody" in operation:
        responses["400"], responses["408"], responses["413"] = {}, {}, {}
    for status, means in {**_ALWAYS, **_SOMETIMES}.items():
        if health and status != "403":
            continue
        if status in responses or status in _ALWAYS:
            content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            responses[status] = {"description": means, "content": content}
