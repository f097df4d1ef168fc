"""Simulates years: plays one seed after the other, shows what was found, and how to play it again."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console

from simulation.mutants import MUTANTS, hunt
from simulation.play import play
from simulation.quiet import quiet_days
from simulation.shrink import fails_as, shrink, until
from simulation.worlds import BUSY_DAYS, WorldPlan
from simulation.writing import DAY
from simulation.years import Wish, Years, tell


def main() -> int:
    """Simulate, and show. Returns the exit code: 1 if an oracle spoke, or a mutant was not found."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of what happens
        command = [sys.executable, "-m", "simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S606 - this very program
    arguments = _arguments(sys.argv[1:])
    if arguments.mutants:
        return _mutants(arguments.jobs, arguments.only)
    if arguments.years is None and arguments.seconds is None and arguments.seed is not None:
        days = arguments.days or (quiet_days(arguments.seed) if arguments.quiet else BUSY_DAYS)
        return _one(WorldPlan(seed=arguments.seed, days=days, quiet=arguments.quiet), shrinks=arguments.shrink)
    wish = Wish(
        first=arguments.seed or 0,
        years=arguments.years,
        seconds=arguments.seconds or (60.0 if arguments.years is None else None),
        jobs=arguments.jobs,
        days=arguments.days or BUSY_DAYS,
        kept=arguments.keep,
    )
    return Years(wish, Console()).run()


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one world; with --years or --seconds, begin with it")
    parser.add_argument("--days", type=float, help=f"how long a busy world lasts (default {BUSY_DAYS:g})")
    parser.add_argument("--quiet", action="store_true", help="play the quiet world of it")
    parser.add_argument("--years", type=float, help="go on until so many years were simulated, by the calendar")
    parser.add_argument("--seconds", type=float, help="go on for so long at most (default 60, with --years no end)")
    parser.add_argument("--keep", type=Path, help="a file that keeps what came of each world; go on from there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--shrink", action="store_true", help="make the script of a failing seed as short as can be")
    parser.add_argument("--mutants", action="store_true", help="plant each bug, and see whether it is found")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this mutant alone")
    return parser.parse_args(argv)


def _one(plan: WorldPlan, *, shrinks: bool) -> int:
    """Play one world, and tell what led to its end."""
    console = Console()
    played = play(plan.script())
    if played.violation is None:
        console.print(f"seed {plan.seed}: {played.seconds / DAY:.2f} days, digest {played.digest}: nothing was found")
        return 0
    for line in played.lines[-200:]:
        print(line)  # as it is, without the marks of a terminal
    tell(console, plan, played.violation)
    if shrinks:
        script = until(played.script, played.violation.at)
        print(shrink(script, fails_as(played.violation.kind)).code())
    return 1


def _mutants(jobs: int, only: Sequence[str]) -> int:
    """Plant each bug, and see in how many worlds it is found."""
    console, missed, names = Console(), [], [name for name in MUTANTS if not only or name in only]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        for found in pool.map(hunt, names):
            console.print(found.sentence, style="green" if found.found else "red", markup=False, soft_wrap=True)
            missed += [] if found.found else [found.name]
    console.print(f"{len(names) - len(missed)} of {len(names)} planted bugs were found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
