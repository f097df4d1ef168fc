"""Work that is done once for everybody who waits for it at the same time."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

import anyio

Wish = TypeVar("Wish")
Result = TypeVar("Result")


class _Batch(Generic[Wish, Result]):
    """One run of the work, for callers who asked before it began."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        self.results: list[Result] = []
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        return bool(self.results) or self.error is not None

    async def run(self, work: Callable[[Sequence[Wish]], Awaitable[Result]]) -> None:
        try:
            self.results.append(await work(self.wishes))
        except Exception as error:  # noqa: BLE001 - raised again by each who waited for it
            self.error = error

    def result(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.results[0]


class Batches(Generic[Wish, Result]):
    """Work in rounds, one at a time. Callers get the result of a round that began after they asked.

    All callers who ask while a round is under way share the next one. One of them runs it; if that one is cancelled,
    another one of them runs it again.

    Args:
        work: does it, for the wishes of all callers in the round. Each of them gets its exception.
    """

    def __init__(self, work: Callable[[Sequence[Wish]], Awaitable[Result]]) -> None:
        self._work = work
        self._turn = anyio.Lock()
        self._next: _Batch[Wish, Result] | None = None
        self.waiting = 0
        """How many callers wait for a round, including the one who runs it."""

    async def join(self, wish: Wish) -> Result:
        """Wait for a round that begins from now on."""
        shared = self._next = self._next or _Batch()
        shared.wishes.append(wish)
        self.waiting += 1
        try:
            async with self._turn:
                if self._next is shared:
                    self._next = None
                if not shared.ended:
                    await shared.run(self._work)
        finally:
            self.waiting -= 1
        return shared.result()


class SingleFlight(Generic[Result]):
    """Questions that are asked once for all who ask the same at the same time; answers are never kept."""

    def __init__(self) -> None:
        self._rounds: dict[Hashable, Batches[None, Result]] = {}

    async def ask(self, question: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """The answer to a question that is sent from now on.

        Args:
            question: identifies the question.
            work: asks it; the same for the same question.
        """
        rounds = self._rounds.get(question)
        if rounds is None:
            rounds = self._rounds[question] = Batches(lambda _: work())
        try:
            return await rounds.join(None)
        finally:
            if not rounds.waiting:
                self._rounds.pop(question, None)


async def gathered(*works: Callable[[], Awaitable[Result]]) -> list[Result]:
    """Do several pieces of work at the same time; the first error ends the others, and comes out unchanged."""
    if len(works) <= 1:
        return [await work() for work in works]
    results: dict[int, Result] = {}
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def do(place: int, work: Callable[[], Awaitable[Result]]) -> None:
            try:
                results[place] = await work()
            except Exception as error:  # noqa: BLE001 - raised below, without a group around it
                errors.append(error)
                group.cancel_scope.cancel()

        for place, work in enumerate(works):
            group.start_soon(do, place, work)
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(works))]


async def first(*works: Callable[[], Awaitable[Result | None]]) -> Result | None:
    """Do several pieces of work at the same time, until one has a result; None if none does.

    The first error ends the others, too, and comes out unchanged, unless one has a result by then.
    """
    if len(works) == 1:
        return await works[0]()
    found: list[Result] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def do(work: Callable[[], Awaitable[Result | None]]) -> None:
            try:
                result = await work()
            except Exception as error:  # noqa: BLE001 - raised below, without a group around it
                errors.append(error)
            else:
                if result is None:
                    return
                found.append(result)
            group.cancel_scope.cancel()

        for work in works:
            group.start_soon(do, work)
    if not found and errors:
        raise errors[0]
    return found[0] if found else None
