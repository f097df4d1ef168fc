"""What a person hears about one session: the explanation, with what the journal knows."""

from collections.abc import Iterable
from dataclasses import replace

from watchdog.errors import NoSuchSession
from watchdog.explaining.explain import explain, is_known
from watchdog.explaining.values import Explanation
from watchdog.journal.null import NoJournal
from watchdog.judging.orphan_proof import deleted_at_work
from watchdog.model.policy import Policy
from watchdog.model.report import Observation
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.observing.observe import with_pid
from watchdog.operating.holds import in_order
from watchdog.ports import Fleet, History, Owners
from watchdog.reporting.journal_tables import hold_sentence, intervention_sentence
from watchdog.timing.events import Assessment

_MOST_TOLD = 10


class Telling:
    """Explains sessions of one database.

    Args:
        listening: the looks come from a running watchdog, with its memory, that listens to the event feeds.
    """

    def __init__(
        self, *, fleet: Fleet, owners: Owners, journal: History | NoJournal, listening: bool = False
    ) -> None:
        self._fleet = fleet
        self._owners = owners
        self._journal = journal
        self._listening = listening

    async def explanation(self, assessment: Assessment, policy: Policy, session_id: SessionId) -> Explanation:
        """Explain one session of a look that was judged by this policy.

        Raises:
            NoSuchSession: the look does not know it.
            JournalUnusable: the journal can't be read.
        """
        observation = assessment.observation
        if not is_known(observation, session_id):
            deleted = deleted_at_work(observation.reports, observation.snapshot, for_a_person=True)
            at_work = next((report.name for report, id_ in deleted if id_ == session_id), None)
            raise NoSuchSession(session_id, at_work=at_work)
        seen = await self._with_holders(observation)
        found = explain(seen, assessment.judgement, policy, session_id, listening=self._listening)
        holds, history = await self._told(observation.at_ms, session_id, [page.id for page in found.sessions])
        return replace(found, holds=holds, history=history)

    async def _with_holders(self, observation: Observation) -> Observation:
        """Who has the database open, even if no proof needed it: a person wants to see it anyway."""
        if observation.holders is not None:
            return observation
        holders = await self._owners.look()
        servers = {server.name: server for server in self._fleet.servers()}
        reports = [with_pid(report, servers.get(report.name), holders) for report in observation.reports]
        return replace(observation, holders=holders, reports=tuple(reports))

    async def _told(
        self, now_ms: int, session_id: SessionId, tree: Iterable[SessionId]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The journal's part, for people: what holds the session or one of its tree, and what was done to it."""
        wanted = {EVERYTHING, session_id, *tree}
        holds = [each for each in in_order(await self._journal.holds(now_ms)) if each.session_id in wanted]
        done = (
            []
            if isinstance(self._journal, NoJournal)
            else await self._journal.interventions(session_id=session_id, limit=_MOST_TOLD)
        )
        return tuple(map(hold_sentence, holds)), tuple(map(intervention_sentence, done))
