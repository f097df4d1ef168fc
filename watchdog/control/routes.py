"""The routes of the API: each asks the operator, and answers with a document."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.responses import Response

from watchdog.control import shapes
from watchdog.control.access.problems import Problem
from watchdog.control.answers import PlainJson
from watchdog.control.documents import (
    API,
    answer_document,
    next_page,
    operation_document,
    operation_path,
    sessions_document,
    status_document,
)
from watchdog.control.events import Events
from watchdog.control.state import state_document
from watchdog.control.stream import EventStream, StateStream
from watchdog.errors import UsageError
from watchdog.model.interventions import InterventionId
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.operating.holds import HoldChange
from watchdog.operating.operations import Operation
from watchdog.operating.operator import Operator
from watchdog.reporting.drain_documents import drain_document
from watchdog.reporting.explain_documents import explain_document
from watchdog.reporting.journal_documents import history_document, holds_document, intervention_document
from watchdog.settings.durations import parse_duration


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What the routes work with.

    Attributes:
        journal: its path, if there is one.
        metrics: renders them in the format that an `Accept` header asks for.
        admits: whether the headers of a request still let it in.
        program: our version.
        patience_seconds: how long an answer may take before it is `202`.
    """

    operator: Operator
    events: Events
    journal: str | None
    metrics: Callable[[str | None], tuple[str, bytes]]
    admits: Callable[[Headers], bool]
    program: str
    patience_seconds: float

    @property
    def names(self) -> tuple[str, str]:
        """The database and the journal, for documents."""
        return str(self.operator.database), self.journal or ""


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


With = Annotated[Services, Depends(_services)]
SessionPath = Annotated[
    str,
    Path(pattern=shapes.SESSION_ID, description="the id of a session", examples=["ses_6fa1c0d2effe9Yp4c1WnAs8VvW"]),
]
MessagePath = Annotated[
    str,
    Path(pattern=shapes.MESSAGE_ID, description="the id of a message", examples=["msg_905e3f2f1001aBcDeFgHiJkLmN"]),
]
NumberPath = Annotated[
    int, Path(ge=1, le=shapes.LARGEST_NUMBER, description="the number of an intervention", examples=[12])
]

router = APIRouter(prefix=API, dependencies=[Security(HTTPBearer(auto_error=False, scheme_name="token"))])


# -- sessions ----------------------------------------------------------------------------------------------------


@router.get(
    "/sessions", operation_id="sessions", summary="The last look", responses={200: {"model": shapes.Sessions}}
)
async def sessions(services: With) -> Response:
    """What `scan --json` prints, and what a person wants to see of each session."""
    operator = services.operator
    document = sessions_document(
        str(operator.database),
        await operator.sessions(),
        program=services.program,
        poll_interval_seconds=operator.poll_interval_seconds,
    )
    return PlainJson(document)


@router.get(
    "/sessions/{session_id}",
    operation_id="explain",
    summary="Why a session is stuck or left alone",
    responses={200: {"model": shapes.Explanation}, 404: {}},
)
async def explain(services: With, session_id: SessionPath) -> Response:
    """What `explain --json` prints, as the running watchdog sees it."""
    found = await services.operator.explain(SessionId(session_id))
    return PlainJson(explain_document(str(services.operator.database), found))


@router.get(
    "/status",
    operation_id="status",
    summary="What the watchdog is doing",
    responses={200: {"model": shapes.Status}},
)
async def status(services: With) -> Response:
    """What `status --json` prints: what it may do, what it waits for, and what is in its way."""
    operator = services.operator
    glance = await operator.sessions()
    return PlainJson(status_document(operator, glance, program=services.program, journal=services.journal))


@router.get(
    "/state",
    operation_id="state",
    summary="Each unfinished session in a few words",
    responses={200: {"model": shapes.State}},
)
async def state(services: With) -> Response:
    """For programs that show sessions: what each is doing, why, since when, until when, and what may be done."""
    return PlainJson(await _state(services))


@router.get(
    "/state/events",
    operation_id="state_events",
    summary="The same, whenever it changes",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def state_events(services: With, request: Request) -> Response:
    """Server-sent events named `state`, each with the whole document."""
    still_in = partial(services.admits, request.headers)
    return StateStream(services.events, still_in=still_in, look=partial(_state, services))


@router.get(
    "/drain",
    operation_id="drain",
    summary="What would be lost if the servers were restarted now",
    responses={200: {"model": shapes.Drain}},
)
async def drain(services: With) -> Response:
    """What `drain --json` prints, as a fresh look of the running watchdog sees it. It ends nothing."""
    return PlainJson(drain_document(str(services.operator.database), await services.operator.drain()))


@router.post(
    "/sessions/{session_id}/release",
    operation_id="release",
    summary="End now whatever is open in a session",
    responses={200: {"model": shapes.Outcomes}, 202: {"model": shapes.OperationShape}, 404: {}, 409: {}},
)
async def release(
    services: With, session_id: SessionPath, body: Annotated[shapes.ReleaseBody | None, Body()] = None
) -> Response:
    """The ladder, whatever the limits say. Two releases of a session at the same time are one."""
    said = body or shapes.ReleaseBody()
    agreed = [SessionId(each) for each in said.agreed]
    operation = services.operator.release(SessionId(session_id), reason=said.reason, below=said.below, agreed=agreed)
    return await _answered(services, operation)


@router.delete(
    "/sessions/{session_id}/messages/{message_id}",
    operation_id="delete_message",
    summary="Delete a message, also of a busy session",
    responses={200: {"model": shapes.Deletion}, 202: {"model": shapes.OperationShape}, 404: {}, 409: {}},
)
async def delete_message(services: With, session_id: SessionPath, message_id: MessagePath) -> Response:
    """Release the session if it is busy, then delete the message at the server that has it."""
    return await _answered(services, services.operator.delete_message(SessionId(session_id), message_id))


@router.post(
    "/sessions/{session_id}/hold",
    operation_id="hold",
    summary="Leave a session alone",
    responses={200: {"model": shapes.Holds}, 404: {}, 409: {}},
)
async def hold(
    services: With, session_id: SessionPath, body: Annotated[shapes.HoldBody | None, Body()] = None
) -> Response:
    """Leave it alone for a while, or until somebody ends it."""
    return _held(services, await services.operator.hold(SessionId(session_id), length_ms=_length_ms(body)))


@router.post(
    "/sessions/{session_id}/unhold",
    operation_id="unhold",
    summary="End a hold",
    responses={200: {"model": shapes.Holds}, 409: {}},
)
async def unhold(services: With, session_id: SessionPath) -> Response:
    """The session is judged again like any other."""
    return _held(services, await services.operator.unhold(SessionId(session_id)))


@router.post(
    "/pause",
    operation_id="pause",
    summary="Leave everything alone",
    responses={200: {"model": shapes.Holds}, 409: {}},
)
async def pause(services: With, body: Annotated[shapes.HoldBody | None, Body()] = None) -> Response:
    """Leave everything alone for a while, or until somebody resumes."""
    return _held(services, await services.operator.hold(EVERYTHING, length_ms=_length_ms(body)))


@router.post(
    "/resume", operation_id="resume", summary="End a pause", responses={200: {"model": shapes.Holds}, 409: {}}
)
async def resume(services: With) -> Response:
    """Sessions with a hold of their own stay on hold."""
    return _held(services, await services.operator.unhold(EVERYTHING))


@router.get(
    "/operations/{operation_id}",
    operation_id="operation",
    summary="How something is that takes longer",
    responses={200: {"model": shapes.OperationShape}, 404: {}},
)
async def operation(
    services: With,
    request: Request,
    operation_id: Annotated[str, Path(pattern=shapes.OPERATION_ID, examples=["op_3f2a9c1e5b7d4860"])],
) -> Response:
    """The link that a `202` gave."""
    found = services.operator.operations.get(operation_id)
    if found is None:
        detail = f"There is no operation {operation_id}; only the last ones are remembered."
        return Problem(name="no-such-operation", status=404, detail=detail).response(request.url.path)
    return PlainJson(operation_document(*services.names, found))


# -- the journal -------------------------------------------------------------------------------------------------


@router.get(
    "/interventions",
    operation_id="interventions",
    summary="What was done, the newest first",
    responses={200: {"model": shapes.History}, 409: {}},
)
async def interventions(
    services: With,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=shapes.LARGEST_NUMBER)] = None,
    session_id: Annotated[str | None, Query(pattern=shapes.SESSION_ID)] = None,
) -> Response:
    """What `history --json` prints, page by page."""
    found, holds = await services.operator.interventions(
        session_id=None if session_id is None else SessionId(session_id),
        before=None if before is None else InterventionId(before),
        limit=limit + 1,
    )
    document = history_document(*services.names, found[:limit], holds)
    return PlainJson({**document, "next": next_page(found, limit=limit, session_id=session_id)})


@router.get(
    "/interventions/{number}",
    operation_id="intervention",
    summary="One of them, with its rows",
    responses={200: {"model": shapes.OneIntervention}, 404: {}, 409: {}},
)
async def intervention(services: With, number: NumberPath) -> Response:
    """What `history ID --json` prints: the whole rows, before and after."""
    found, kept = await services.operator.intervention(InterventionId(number))
    return PlainJson(intervention_document(*services.names, found, kept))


@router.post(
    "/interventions/{number}/undo",
    operation_id="undo",
    summary="Take one back",
    responses={200: {"model": shapes.Undone}, 202: {"model": shapes.OperationShape}, 404: {}, 409: {}},
)
async def undo(services: With, number: NumberPath) -> Response:
    """Put its rows back as they were, if nothing happened since; and hold the session."""
    return await _answered(services, await services.operator.undo(InterventionId(number)))


# -- live --------------------------------------------------------------------------------------------------------


@router.get(
    "/events",
    operation_id="events",
    summary="What the loop does, as it happens",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def events(
    services: With,
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=60, description="resume behind this event")] = None,
) -> Response:
    """Server-sent events."""
    return EventStream(services.events, last_event_id, still_in=partial(services.admits, request.headers))


# -- answers -----------------------------------------------------------------------------------------------------


async def _state(services: Services) -> dict[str, Any]:
    return state_document(str(services.operator.database), await services.operator.sessions())


async def _answered(services: Services, begun: Operation) -> Response:
    """The answer of an operation; or its link, if it takes long. It goes on, whoever waits."""
    if not await begun.over_within(services.patience_seconds):
        document: dict[str, Any] = operation_document(*services.names, begun)
        return PlainJson(document, status_code=202, headers={"Location": operation_path(begun.id)})
    return PlainJson(answer_document(*services.names, await begun.result()))


def _held(services: Services, change: HoldChange) -> Response:
    return PlainJson(holds_document(*services.names, change.session_id, change.holds, was_on_hold=change.was_on_hold))


def _length_ms(body: shapes.HoldBody | None) -> int | None:
    try:
        length = parse_duration(body.length if body else None)
    except ValueError as error:
        raise UsageError(f"`for` is not valid: {error}.") from None
    return None if length is None else round(length.total_seconds() * 1000)
