"""The files of the page, from the package."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFile:
    """One file.

    Attributes:
        mark: changes when the content does.
    """

    content: bytes
    kind: str
    mark: str


def page_files() -> Mapping[str, PageFile]:
    """The files of the page by name, read once: no path of a request ever reaches the file system."""
    found: dict[str, PageFile] = {}
    for file in files("watchdog.control").joinpath("page").iterdir():
        kind = next((kind for suffix, kind in _KINDS.items() if file.name.endswith(suffix)), None)
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = PageFile(
                content=content, kind=kind, mark=f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            )
    return found
