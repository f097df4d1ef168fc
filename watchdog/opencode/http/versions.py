"""Which versions of opencode were measured, and what their silence means. A fork has numbers of its own."""

import re
from typing import Final

KNOWN_VERSIONS: Final = ((1, 2), (2, 0))
"""From the first up to the second, which is none of them."""
VOUCHING_VERSION: Final = (1, 14)
"""From here on a session that isn't listed is idle."""
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+.].*)?\Z")


def number_of(version: str) -> tuple[int, int]:
    """The first two numbers of a version; zeros, which no known one has, where it has none."""
    found = _VERSION.match(version)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)
