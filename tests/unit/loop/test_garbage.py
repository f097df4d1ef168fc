import subprocess
import sys

PROGRAM = """
import gc
from watchdog.loop.garbage import collect_seldom
before = gc.get_threshold()
collect_seldom()
assert gc.isenabled() and gc.get_freeze_count() > 0
assert gc.get_threshold()[0] > before[0] and gc.get_threshold()[1:] == before[1:]
cycle = []
cycle.append(cycle)
del cycle
assert gc.collect() > 0
"""


def test_the_collector_looks_seldom_and_still_finds_cycles() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
