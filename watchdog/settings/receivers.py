"""Who is told of what, according to the settings: the addresses of receivers, and the occasions for a message."""

import json
import re
from enum import StrEnum


class Occasion(StrEnum):
    """What a message is sent for."""

    GIVEN_UP = "given_up"
    DEGRADED = "degraded"
    OUTCOME = "outcome"
    WAITING = "waiting"
    STUCK = "stuck"
    LEFTOVERS = "leftovers"


_BEFORE_AN_ADDRESS = re.compile(r"[\s,]+(?=[a-z][a-z0-9]*://)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9]*://\S+", re.IGNORECASE)
_HOW = 'it is a list of Apprise URLs, such as ["json://localhost:8080/alerts"]'


def addresses(value: object) -> list[str]:
    """The URLs in a list, or in a text from the environment: JSON, or separated by blanks or commas.

    Raises:
        ValueError: it is neither. The text holds nothing of it: an address is a secret.
    """
    found = _parts(value, _HOW) if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise ValueError(_HOW)  # noqa: TRY004 - pydantic collects a ValueError, and no TypeError
    for number, address in enumerate(found, 1):
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address.strip()):
            raise ValueError(f"number {number} is no Apprise URL, such as json://localhost:8080/alerts")
    return list(dict.fromkeys(str(address).strip() for address in found))


def occasions(value: object) -> list[Occasion]:
    """The occasions in a list, or in a text from the environment.

    Raises:
        ValueError: one of them is none.
    """
    how = f"it is a list of {', '.join(Occasion)}"
    found = _parts(value, how) if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise ValueError(how)  # noqa: TRY004 - as above
    try:
        return list(dict.fromkeys(Occasion(str(each).strip().lower()) for each in found))
    except ValueError:
        raise ValueError(how) from None


def _parts(text: str, how: str) -> object:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(how) from None
    between = _BEFORE_AN_ADDRESS if "://" in text else re.compile(r"[\s,]+")
    return [part for part in between.split(text.strip(" ,")) if part]
