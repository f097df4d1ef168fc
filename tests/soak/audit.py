"""What the two databases say at the end, and what the watchdogs logged."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.soak.churn import ABORTED, Stage

Json = dict[str, Any]

SIGNATURE: Final = "Ended by opencode-watchdog"
_TELLING_MS: Final = 10_000
"""How long after its write the watchdog may still publish it, read it back and tell of it."""
_ABORT_ERRORS: Final = ("Tool execution aborted", "Task cancelled")


@dataclass
class Audit:
    """Reads both databases once; `wrong` says what the one holds and the other does not explain."""

    stage: Stage
    journal: Path
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.parents = {row["id"]: row["parent_id"] for row in self._all("SELECT id, parent_id FROM session")}
        self.rows = {row["id"]: row for row in self._all("SELECT id, session_id, time_created, data FROM message")}
        self.rows |= {row["id"]: row for row in self._all("SELECT id, session_id, time_created, data FROM part")}
        self.interventions = self._all("SELECT * FROM intervention ORDER BY id", self.journal)
        self.kept = self._all("SELECT * FROM kept_row", self.journal)

    def check(self) -> None:
        """Everything that the databases can be asked."""
        for database in (self.stage.lab.database, self.journal):
            [[answer]] = [list(row.values()) for row in self._all("PRAGMA integrity_check", database)]
            self._demand(answer == "ok", f"integrity_check of {database.name}: {answer}")
        self._check_signed_rows()
        for intervention in self.interventions:
            self._check_intervention(intervention)

    def read_logs(self, logs: Iterable[Path]) -> None:
        """Count what the watchdogs said, and look for acts on healthy sessions that no crash explains."""
        for log in logs:
            with log.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self._read_line(line)

    def _read_line(self, line: str) -> None:
        try:
            said: Json = json.loads(line)
        except json.JSONDecodeError:
            if line.strip():
                self.counts["log: lines that are not JSON"] += 1
            return
        match said.get("event"):
            case "watch.looked":
                self.counts["looks"] += 1
            case "outcome":
                self.counts[f"outcome {said['kind']}: {said['result']}"] += 1
                at_ms = int(datetime.fromisoformat(said["timestamp"]).timestamp() * 1000)
                fair = said["kind"] == "orphan" or self._may_be_ended(said["session_id"], at_ms)
                self._demand(fair, f"an outcome for what did not hang: {said}")
            case "verdict.failed":
                self.wrong.append(f"an error of the watchdog's own: {said}")
            case "verdict.found" | None:
                pass
            case event:
                self.counts[f"log: {event}"] += 1

    def _may_be_ended(self, session_id: str, at_ms: int) -> bool:
        """Whether it belongs to a session that hangs on purpose, or whose server had been killed under it."""
        while (parent := self.parents.get(session_id)) is not None:
            session_id = parent
        hurt = self.stage.hurt.get(session_id, [])
        return self.stage.roles.get(session_id) == "hung" or any(
            crashed <= at_ms <= settled + _TELLING_MS for crashed, settled in hurt
        )

    def _check_signed_rows(self) -> None:
        """Each row that carries the watchdog's text is as the journal says that the watchdog wrote it."""
        afters: dict[str, list[Json]] = {}
        for kept in self.kept:
            afters.setdefault(kept["id"], []).append(json.loads(kept["after"]))
        for id_, row in self.rows.items():
            data = json.loads(row["data"])
            if SIGNATURE in _error_of(data):
                self.counts["rows settled"] += 1
                self._demand(data in afters.get(id_, []), f"the journal does not explain {id_}: {data}")

    def _check_intervention(self, intervention: Json) -> None:
        verdict, number = json.loads(intervention["verdict"]), intervention["id"]
        self._demand(intervention["ended_ms"] is not None, f"intervention {number} was never closed")
        outcome = json.loads(intervention["outcome"] or "{}")
        self.counts[f"intervention {verdict['kind']}: {outcome.get('result')}"] += 1
        ids = [*verdict["call_ids"], *verdict["turn_ids"]]
        if verdict["kind"] == "orphan":
            created = max(self.rows[id_]["time_created"] for id_ in ids)
            crashed = any(created <= crash <= intervention["began_ms"] for crash in self.stage.crashes_ms)
            self._demand(crashed, f"intervention {number} settled what no killed server had left: {verdict}")
        else:
            fair = self._may_be_ended(verdict["session_id"], intervention["began_ms"])
            self._demand(fair, f"intervention {number} cancelled what did not hang: {verdict}")
        if outcome.get("result") == "recovered":
            settled = {kept["id"]: kept for kept in self.kept if kept["intervention_id"] == number}
            for id_ in ids:
                self._check_recovered(number, id_, settled.get(id_))

    def _check_recovered(self, number: int, id_: str, kept: Json | None) -> None:
        data = json.loads(self.rows[id_]["data"])
        if kept is not None:
            self._demand(data == json.loads(kept["after"]), f"intervention {number}: {id_} is not as it was settled")
            return
        error = _error_of(data)
        fits = SIGNATURE in error or error in _ABORT_ERRORS or data.get("error", {}).get("name") == ABORTED
        ended = data.get("state", {}).get("status") == "completed" or "completed" in data.get("time", {})
        self._demand(fits or ended, f"intervention {number} did not end {id_}: {data}")

    def _demand(self, true: bool, sentence: str) -> None:
        if not true:
            self.wrong.append(sentence)

    def _all(self, query: str, database: Path | None = None) -> list[Json]:
        path = database or self.stage.lab.database
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]


def _error_of(data: Json) -> str:
    """The text of a part's or a turn's error."""
    state, error = data.get("state"), data.get("error")
    if isinstance(state, dict):
        return str(state.get("error", ""))
    return str(error["data"].get("message", "")) if isinstance(error, dict) and "data" in error else ""
