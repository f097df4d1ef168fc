"""Work that is shared: no result is of a round that began before it was asked for, and nobody's end harms another."""

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from watchdog.sharing import Batches, SingleFlight, first, gathered

SECONDS = 60.0


class Work:
    """Work that counts its rounds, and ends one whenever it is let go on.

    Attributes:
        began: the wishes of each round that began.
        error: raised by a round when it ends.
    """

    def __init__(self) -> None:
        self.began: list[tuple[str, ...]] = []
        self.cancelled = 0
        self.error: Exception | None = None
        self._gates: list[anyio.Event] = []
        self._changed = anyio.Event()

    async def __call__(self, wishes: Sequence[str]) -> int:
        number, gate = len(self.began), anyio.Event()
        self.began.append(tuple(wishes))
        self._gates.append(gate)
        self._changed.set()
        try:
            await gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return number

    async def until_begun(self, count: int) -> None:
        with anyio.fail_after(SECONDS):
            while len(self.began) < count:
                self._changed = anyio.Event()
                await self._changed.wait()

    def let_go(self, number: int) -> None:
        self._gates[number].set()


class Asker:
    """One who asks, in a task of their own."""

    def __init__(self, rounds: Batches[str, int], wish: str) -> None:
        self.rounds, self.wish = rounds, wish
        self.scope = anyio.CancelScope()
        self.result: int | None = None
        self.error: Exception | None = None

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.result = await self.rounds.join(self.wish)
            except ValueError as error:
                self.error = error


async def settled() -> None:
    """Let every task that can go on go on."""
    await anyio.wait_all_tasks_blocked()


async def test_who_asks_while_a_round_is_under_way_gets_the_next_one() -> None:
    work = Work()
    rounds = Batches(work)
    early, late, later = (Asker(rounds, wish) for wish in ("early", "late", "later"))
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(early)
            await work.until_begun(1)
            group.start_soon(late)
            group.start_soon(later)
            await settled()
            assert work.began == [("early",)]
            work.let_go(0)
            await work.until_begun(2)
            assert early.result == 0
            work.let_go(1)
    assert (late.result, later.result) == (1, 1)
    assert work.began == [("early",), ("late", "later")]
    assert rounds.waiting == 0


async def test_those_who_ask_at_the_same_time_share_one_round() -> None:
    work = Work()
    rounds = Batches(work)
    askers = [Asker(rounds, str(number)) for number in range(8)]
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            for asker in askers:
                group.start_soon(asker)
            await work.until_begun(1)
            work.let_go(0)
    assert [asker.result for asker in askers] == [0] * 8
    assert len(work.began) == 1


async def test_when_the_one_who_runs_a_round_is_cancelled_another_one_runs_it_anew() -> None:
    work = Work()
    rounds = Batches(work)
    one, other, late = (Asker(rounds, wish) for wish in ("one", "other", "late"))
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(other)
            await work.until_begun(1)
            group.start_soon(late)
            await settled()
            one.scope.cancel()
            await work.until_begun(2)
            assert work.cancelled == 1
            work.let_go(1)
            await work.until_begun(3)
            work.let_go(2)
    assert (one.result, other.result, late.result) == (None, 1, 2)


async def test_one_who_is_cancelled_while_they_wait_harms_nobody() -> None:
    work = Work()
    rounds = Batches(work)
    leader, leaves, stays = (Asker(rounds, wish) for wish in ("leader", "leaves", "stays"))
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(leader)
            await work.until_begun(1)
            group.start_soon(leaves)
            group.start_soon(stays)
            await settled()
            leaves.scope.cancel()
            await settled()
            assert work.cancelled == 0
            work.let_go(0)
            await work.until_begun(2)
            work.let_go(1)
    assert (leader.result, leaves.result, stays.result) == (0, None, 1)


async def test_an_error_reaches_all_who_share_the_round_and_nobody_after_them() -> None:
    work = Work()
    rounds = Batches(work)
    askers, late = [Asker(rounds, "a"), Asker(rounds, "b")], Asker(rounds, "late")
    work.error = ValueError("no")
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            for asker in askers:
                group.start_soon(asker)
            await work.until_begun(1)
            group.start_soon(late)
            await settled()
            work.let_go(0)
            await work.until_begun(2)
            work.error = None
            work.let_go(1)
    assert [(str(asker.error), asker.result) for asker in askers] == [("no", None)] * 2
    assert (late.result, late.error) == (1, None)


async def test_an_answer_is_asked_for_again_by_who_comes_later_and_nothing_is_kept() -> None:
    shared, asked = SingleFlight[int](), 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await anyio.lowlevel.checkpoint()
        return asked

    assert [await shared.ask("/a", ask), await shared.ask("/a", ask), await shared.ask("/b", ask)] == [1, 2, 3]
    assert not shared._rounds


async def test_different_questions_do_not_wait_for_each_other() -> None:
    shared = SingleFlight[str]()

    async def never() -> str:
        await anyio.sleep_forever()
        return "a"

    async def at_once() -> str:
        return "b"

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(shared.ask, "/a", never)
            await settled()
            assert await shared.ask("/b", at_once) == "b"
            group.cancel_scope.cancel()
    assert not shared._rounds


async def test_several_pieces_of_work_are_done_at_once_and_their_results_keep_their_places() -> None:
    together = anyio.Event()

    async def waits() -> int:
        await together.wait()
        return 1

    async def releases() -> int:
        together.set()
        return 2

    with anyio.fail_after(SECONDS):
        assert await gathered(waits, releases) == [1, 2]


async def test_the_first_error_ends_the_others_and_comes_out_as_it_is() -> None:
    async def never() -> int:
        await anyio.sleep_forever()
        return 1

    async def fails() -> int:
        raise ValueError("no")

    with anyio.fail_after(SECONDS), pytest.raises(ValueError, match="no"):
        await gathered(never, fails)


async def test_the_first_that_brings_something_ends_the_others() -> None:
    async def never() -> int | None:
        await anyio.sleep_forever()
        return 1

    async def nothing() -> int | None:
        return None

    async def something() -> int | None:
        return 7

    with anyio.fail_after(SECONDS):
        assert await first(never, nothing, something) == 7
        assert await first(nothing, nothing) is None


async def test_an_error_of_one_that_could_bring_something_comes_out_as_it_is() -> None:
    async def never() -> int | None:
        await anyio.sleep_forever()
        return 1

    async def fails() -> int | None:
        raise ValueError("no")

    with anyio.fail_after(SECONDS), pytest.raises(ValueError, match="no"):
        await first(never, fails, never)
    with pytest.raises(ValueError, match="no"):
        await first(fails, fails)


async def test_what_one_has_brought_counts_although_another_fails_at_the_end() -> None:
    async def fails_when_ended() -> int | None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("no")

    async def something() -> int | None:
        return 7

    with anyio.fail_after(SECONDS):
        assert await first(fails_when_ended, something) == 7
