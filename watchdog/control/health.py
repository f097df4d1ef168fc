"""Whether the watchdog is well, for machines that need no token: without a word about what it watches."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.responses import JSONResponse

from watchdog.loop.last_look import Latest
from watchdog.model.report import ServerReport
from watchdog.model.session import ServerName
from watchdog.ports import Server


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The state. `reasons` are sentences, and empty if all is well."""

    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.reasons


def told(health: Health) -> JSONResponse:
    """The state as an answer."""
    return JSONResponse({"ok": health.ok, "reasons": list(health.reasons)}, status_code=200 if health.ok else 503)


class Doctor:
    """Says how well a watchdog is, from what its loop last saw: asking costs nothing.

    Args:
        latest: the last look of the loop.
        configured: the names of the servers that the settings name; those found later may come and go.
        servers: all servers that can be asked.
    """

    def __init__(
        self, latest: Latest, *, configured: Collection[ServerName], servers: Callable[[], Collection[Server]]
    ) -> None:
        self._latest = latest
        self._configured = frozenset(configured)
        self._servers = servers

    def alive(self) -> Health:
        """Whether the loop ticks."""
        return Health() if self._latest.ticking else Health(reasons=("The loop has not looked for too long.",))

    def ready(self) -> Health:
        """Whether the database, the journal and every configured server can be used."""
        reasons = list(self.alive().reasons)
        assessment = self._latest.assessment
        if self._latest.problem is not None:
            reasons.append("The database or the journal can't be used.")
        elif assessment is None:
            reasons.append("The first look is not over.")
        reports = {} if assessment is None else {each.name: each for each in assessment.observation.reports}
        configured = [server for server in self._servers() if server.name in self._configured]
        silent = sum(not _is_usable(server, reports.get(server.name)) for server in configured)
        if silent:
            reasons.append(f"{silent} of {len(configured)} configured servers can't be used.")
        return Health(reasons=tuple(reasons))


def _is_usable(server: Server, report: ServerReport | None) -> bool:
    """Whether its feed is connected, if it has one, and its last answers were of use."""
    witness = server.witness()
    heard = witness is None or witness.connected
    return heard and (report is None or report.problem is None)
