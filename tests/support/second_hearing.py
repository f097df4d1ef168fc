"""Hear tests again, alone, that failed beside others: a machine that stood still, or a fault?

Four workers on two cores start hundreds of servers, and now and then a test waits out its patience there. What
failed is run three times more with nothing beside it. It passes only if it passes each time, and it is named in the
last lines, so that it is mended; more than a few are never put down to the machine.
"""

import json
import subprocess
import sys
from pathlib import Path

FAILED = Path(".pytest_cache/v/cache/lastfailed")
FEW = 3
HEARINGS = 3
TESTS_FAILED = 1


def main(code: int) -> int:
    """The exit code of `make test` after pytest ended with `code`: 0 if what failed passes each time."""
    failed = sorted(json.loads(FAILED.read_text(encoding="utf-8"))) if FAILED.exists() else []
    if code != TESTS_FAILED or not 0 < len(failed) <= FEW:
        return code
    for nth in range(1, HEARINGS + 1):
        print(f"\nhearing {nth} of {HEARINGS}, alone: {', '.join(failed)}", flush=True)
        heard = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *failed], check=False)
        if heard.returncode:
            return heard.returncode
    print("\nFailed beside others, and passed alone each time. Too little patience for a busy machine; mend them:")
    print("\n".join(f"  {each}" for each in failed))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
