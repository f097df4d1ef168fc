"""The application: the routes, the page, health and metrics, behind one door."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from watchdog.control.documents import API
from watchdog.control.files import INDEX, PageFile, page_files
from watchdog.control.gate import Door, Gate
from watchdog.control.health import Doctor, Health
from watchdog.control.problems import MEDIA_TYPE, answer_error, answer_http_error, answer_invalid
from watchdog.control.routes import Services, router
from watchdog.control.shapes import Health as HealthShape
from watchdog.control.shapes import ProblemShape
from watchdog.errors import WatchdogError
from watchdog.ports import Clock

OPEN_PATHS: Final = frozenset({"/", "/page/", "/healthz", "/readyz"})
"""What needs no token: the page's own files, which hold nothing, and health, which tells nothing private."""
_ALWAYS: Final = {
    "401": "the token is missing or wrong",
    "403": "the request came by a foreign name, or from a foreign page",
    "422": "an id, a parameter or the body is not what it must be",
    "429": "too many requests",
    "503": "it can't be done just now",
}
_SOMETIMES: Final = {
    "400": "the body can't be read",
    "413": "the body is too large",
    "404": "there is none",
    "409": "not in this state of the watchdog",
}


def make_app(services: Services, doctor: Doctor, gate: Gate, clock: Clock) -> ASGIApp:
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
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    inner: ASGIApp = app
    if gate.names.origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=sorted(gate.names.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Location", "Retry-After"],
        )
    return Door(inner, gate=gate, clock=clock)


def _add_health(app: FastAPI, doctor: Doctor) -> None:
    answers: dict[int | str, dict[str, Any]] = {200: {"model": HealthShape}, 503: {"model": HealthShape}}

    @app.get("/healthz", operation_id="healthz", summary="Whether the loop ticked lately", responses=answers)
    async def healthz() -> Response:
        """For whoever restarts it."""
        return _told(doctor.alive())

    @app.get("/readyz", operation_id="readyz", summary="Whether all that it needs can be used", responses=answers)
    async def readyz() -> Response:
        """For whoever alerts."""
        return _told(doctor.ready())


def _told(health: Health) -> Response:
    return JSONResponse({"ok": health.ok, "reasons": list(health.reasons)}, status_code=200 if health.ok else 503)


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


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: as FastAPI writes it, with problem documents for every error."""
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
        responses["400"], responses["413"] = {}, {}
    for status, means in {**_ALWAYS, **_SOMETIMES}.items():
        if health and status not in {"403", "429"}:
            continue
        if status in responses or status in _ALWAYS:
            content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            responses[status] = {"description": means, "content": content}
