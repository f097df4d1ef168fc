"""Puts the rooms together: the only place, beside the commands, that knows them all."""

from collections.abc import Sequence

from watchdog.acting.attempt import Confirm, Ladder, confirmed
from watchdog.loop.watch import Listener, Mandate, Pace, Watch
from watchdog.observing.memory_store import REPLICAS
from watchdog.ports import Clock, Fleet, Journal, Owners, Store
from watchdog.settings.schema import Settings
from watchdog.timing.clock import SystemClock, boot_id


def assemble(
    settings: Settings,
    *,
    store: Store,
    fleet: Fleet,
    owners: Owners,
    mandate: Mandate,
    journal: Journal,
    listeners: Sequence[Listener] = (),
    dry_run: bool = False,
    clock: Clock | None = None,
    confirm: Confirm = confirmed,
    replicas: bool = False,
) -> Watch:
    """A watch with these settings on these adapters.

    Args:
        replicas: the sessions may run on any machine, and what is remembered outlives each of them.
    """
    return Watch(
        store=store,
        fleet=fleet,
        owners=owners,
        clock=clock or SystemClock(),
        mandate=mandate,
        journal=journal,
        boot_id=REPLICAS if replicas else boot_id(),
        policy=settings.policy(),
        pace=Pace(
            poll_interval_seconds=settings.poll_interval.total_seconds(),
            full_scan_interval_seconds=settings.full_scan_interval.total_seconds(),
            shutdown_grace_seconds=settings.shutdown_grace.total_seconds(),
            max_attempts=settings.max_attempts,
            max_concurrency=settings.max_concurrency,
            recover_on_start=settings.recover_on_start,
            journal_retention_seconds=(
                settings.journal_retention.total_seconds() if settings.journal_retention else None
            ),
            dry_run=dry_run,
        ),
        ladder=Ladder(
            abort_timeout_seconds=settings.abort_timeout.total_seconds(),
            abort_grace_seconds=settings.abort_grace.total_seconds(),
        ),
        listeners=listeners,
        confirm=confirm,
    )
