"""The measured versions of opencode, and what their silence means. A fork has numbers of its own."""

import re
from typing import Final

KNOWN_VERSIONS: Final = ((1, 2), (2, 0))
"""From the first up to, and without, the second."""
VOUCHING_VERSION: Final = (1, 14)
"""From this version on a session that isn't listed is idle."""
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+.].*)?\Z")


def number_of(version: str) -> tuple[int, int]:
    """The first two numbers of a version; if it has none, zeros, which no known version has."""
    found = _VERSION.match(version)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)
