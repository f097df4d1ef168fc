"""The watchdog's words on each session while the demo runs, from its own listener."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from watchdog.demo.book import Scene
from watchdog.demo.stories import SETTINGS, STORIES, Story, is_open
from watchdog.errors import WatchdogError
from watchdog.loop.watch import Assessment
from watchdog.model.outcome import Outcome, Result
from watchdog.model.session import SessionId
from watchdog.model.verdict import Judgement, Spared, SpareReason, Verdict
from watchdog.timing.clock import Advance

_POLICY = SETTINGS.policy()
_AFTER_AN_ATTEMPT = {SpareReason.COOLING_DOWN, SpareReason.GIVEN_UP}


class Mark(StrEnum):
    """The state of a session."""

    UNSEEN = "unseen"
    SPARED = "spared"
    ENDING = "ending"
    ENDED = "ended"
    LEFT = "not ended"
    FINISHED = "finished"


@dataclass(kw_only=True, slots=True)
class Standing:
    """The facts about one session.

    Attributes:
        word: the reason for sparing it, or the kind of the verdict.
        why: one sentence for people.
        result: the result of the verdict.
        age_seconds: the age that is compared with the limit.
        paused: the clock stands still.
        spared: the reasons for which it was spared so far, each once.
    """

    story: Story
    mark: Mark = Mark.UNSEEN
    word: str = ""
    why: str = ""
    result: Result | None = None
    age_seconds: float | None = None
    limit_seconds: float | None = None
    paused: bool = False
    verdict: Verdict | None = None
    spared: list[SpareReason] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.mark in {Mark.ENDED, Mark.FINISHED}


class Board:
    """Listens to the watchdog, and keeps what it says of each story."""

    def __init__(self) -> None:
        self.standings = {story.session_id: Standing(story=story) for story in STORIES}
        self.looks = 0
        self.notes: list[str] = []

    # -- the listener ----------------------------------------------------------------------------------------

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """See `Listener.looked`."""
        self.looks += 1
        if not acting:
            self.note("another watchdog acts on the demo's database")
        self._take_in(assessment.judgement, assessment)

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """See `Listener.held_back`."""
        late = max(advance.late_seconds, advance.slept_seconds, slow_seconds)
        self.note(f"a look came {late:.0f} s late; nothing was done on it")

    def found(self, verdict: Verdict) -> None:
        """See `Listener.found`."""
        standing = self.standings.get(verdict.cancel_session_id)
        if standing is None:
            self.note(f"a verdict on {verdict.cancel_session_id}, which is no story")
            return
        standing.mark, standing.word, standing.why = Mark.ENDING, verdict.kind.value, verdict.why
        standing.age_seconds, standing.limit_seconds = verdict.age_seconds, verdict.limit_seconds
        standing.paused, standing.verdict, standing.result = False, verdict, None

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """See `Listener.ended`."""
        standing = self.standings.get(verdict.cancel_session_id)
        if standing is None:
            return
        standing.result = outcome.result
        standing.mark = Mark.ENDED if outcome.result is Result.RECOVERED else Mark.LEFT
        standing.why = f"{outcome.why}; given up" if given_up else outcome.why

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """See `Listener.failed`."""
        self.note(f"an error on {verdict.cancel_session_id}: {error!r}")

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """See `Listener.unavailable`."""
        self.note(f"{error} Next try in {retry_seconds:g} s.")

    # -- the rest --------------------------------------------------------------------------------------------

    def note(self, sentence: str) -> None:
        """Remember, once, something that should not have happened."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def see(self, scenes: Mapping[SessionId, Scene]) -> None:
        """Notice in the database which sessions finished by themselves."""
        for session_id, standing in self.standings.items():
            scene = scenes.get(session_id)
            if scene is None or standing.is_over or is_open(scene) or "error" in scene.turn:
                continue
            standing.mark, standing.word, standing.paused = Mark.FINISHED, "by itself", False
            standing.why = "its child was ended; it carried on and finished its turn"

    def _take_in(self, judgement: Judgement, assessment: Assessment) -> None:
        seen: set[SessionId] = set()
        for spared in judgement.spared:
            standing = self.standings.get(spared.session_id)
            if standing is None or spared.session_id in seen or standing.is_over or standing.mark is Mark.ENDING:
                continue
            seen.add(spared.session_id)
            if standing.mark is Mark.LEFT and spared.reason in _AFTER_AN_ATTEMPT:
                continue  # the result of the attempt says more
            standing.mark, standing.word, standing.why = Mark.SPARED, spared.reason.value, spared.why
            standing.paused = spared.reason is SpareReason.WAITING_ON_HUMAN
            standing.age_seconds, standing.limit_seconds = _clock(spared, assessment)
            if spared.reason not in standing.spared:
                standing.spared.append(spared.reason)


def _clock(spared: Spared, assessment: Assessment) -> tuple[float | None, float | None]:
    """The age and the limit to show: the judgement's own, or what would count if there were no reason to spare."""
    if spared.reason is SpareReason.WAITING_ON_HUMAN or spared.age_seconds is None:
        session = assessment.observation.snapshot.sessions.get(spared.session_id)
        began = [turn.created_ms for turn in session.turns] if session is not None else []
        age = (assessment.observation.at_ms - min(began)) / 1000 if began else None
        limit = _POLICY.tool_timeout_seconds if spared.reason is SpareReason.WAITING_ON_HUMAN else None
        return age, limit
    if spared.reason is SpareReason.WAITING_ON_CHILD:
        return spared.age_seconds, _POLICY.task_timeout_seconds
    return spared.age_seconds, spared.limit_seconds
