r"""The one place through which every text passes before people see it. Pure.

A tool, a server, a file or a process may have any name: the name must neither steer a terminal, nor forge a line or a
cell, nor hide or reorder the text around it. `Shown` is a text with that guarantee; everything that writes for people
demands one, and only `shown`, `stacked` and `in_json` make one.

Everything that a person reads stays as it is, in every language. Combining marks stay, up to `MOST_MARKS` on a
letter. Joiners and variation selectors stay where a script or an emoji needs them, and nowhere else. Every other
character that nobody sees becomes an escape such as `\x1b` or `\u202e`, be it a control character, a direction mark,
a line or paragraph separator, a zero-width character, a tag, half a surrogate pair, or one of private use; and so
does any that this Python does not know yet.
"""

import json
import math
import re
import unicodedata
from typing import ClassVar, Final

MOST_MARKS: Final = 8
LONGEST_WORD: Final = 256
LONGEST: Final = 4000

_ALWAYS: Final = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_SOMETIMES: Final = "\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef"
_UNSEEN: Final = re.compile(f"[{_ALWAYS}{_SOMETIMES}]")
_NEVER: Final = re.compile(f"[{_ALWAYS}]")
_BLANKS: Final = re.compile(r"[ \t\n\v\f\r]+")
_MARKS: Final = re.compile(r"[^\x00-\u02ff]{9}")
_COMPLEX: Final = re.compile(r"[\u0600-\u109f\u1780-\u18af\u1a20-\u1aaf\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc]")
"""The scripts whose letters change beside a joiner: from Arabic to Mongolian."""
_MONGOLIAN: Final = re.compile(r"[\u1800-\u18af]")
_IDEOGRAPH: Final = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD: Final = re.compile(
    r"[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]{257,}"
)
"""A word beyond `LONGEST_WORD`. Scripts without blanks between words have none."""
_VISIBLE_FORMATS: Final = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
"""Signs that Unicode counts as formatting, and that people see."""
_EDGE: Final = "\u200c\u200d" + "".join(map(chr, range(0xFE00, 0xFE10)))


class Shown(str):
    """A text that people may be shown. Only this module makes one."""

    __slots__ = ()


class Telling:
    """A frozen value with sentences for people. They are `Shown` from the start: anybody may keep or send one.

    Attributes:
        told: the names of its fields that are sentences.
    """

    __slots__ = ()
    told: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Pass each sentence through the one place."""
        for name in self.told:
            sentence = getattr(self, name)
            if sentence is not None:
                object.__setattr__(self, name, shown(sentence))


def shown(text: str, *, longest: int = LONGEST) -> Shown:
    """A text of one line as people may see it. A second pass changes nothing.

    Args:
        text: anything; a text that is already `Shown` stays, with its lines.
        longest: how many characters are shown at most; a longer text loses its middle.
    """
    if isinstance(text, Shown) and len(text) <= longest:
        return text
    if len(text) <= min(LONGEST_WORD, longest) and text.isascii() and text.isprintable():
        return Shown(text)
    # The part that is cut off need not be looked at: it may have megabytes.
    escaped = _cut(_escaped(_cut(text, 2 * longest)), longest)
    return Shown(_WORD.sub(lambda word: _cut(word.group(), LONGEST_WORD), escaped))


def stacked(*lines: str) -> Shown:
    """Lines below each other, each as people may see it: the line breaks are the watchdog's own."""
    return Shown("\n".join(map(shown, lines)))


def joined(*parts: str) -> Shown:
    """Parts of one text, each as people may see it; the lines of a `stacked` one stay."""
    return Shown("".join(map(shown, parts)))


def flat(text: str) -> Shown:
    """A text on one line: line breaks, and every run of blanks, become one blank."""
    return shown(_BLANKS.sub(" ", text).strip(" "))


def tabbed(*cells: str) -> Shown:
    """One line for a program that splits it at the tabs."""
    return Shown("\t".join(map(flat, cells)))


def whole(text: str) -> Shown:
    """A text of one line for copying: as `shown`, but never cut."""
    return Shown(_escaped(text))


def words_of(error: BaseException) -> Shown:
    """The text of an error. One that was made with `stacked` has several lines."""
    said = error.args[0] if len(error.args) == 1 else None
    return said if isinstance(said, Shown) else shown(str(error))


def in_json(document: object, *, indent: int | None = None, spaced: bool = False) -> Shown:
    """A document as JSON: its exact values, in printable ASCII, whatever is in them."""
    separators = (", ", ": ") if spaced else (",", ":") if indent is None else None
    try:
        text = json.dumps(document, indent=indent, separators=separators, default=repr, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=indent, separators=separators, default=repr)
    return Shown(text.replace("\x7f", "\\u007f"))


def _finite(value: object) -> object:
    """A document without the numbers that JSON has no name for: they become texts."""
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def defused(text: str) -> str:
    """A text that is about to be written, without dangerous characters: the net below `shown`.

    Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return _NEVER.sub(lambda found: found.group() if found.group() in "\n\t" else _escape(found.group()), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escaped(text: str) -> str:
    if text.isprintable() and not _UNSEEN.search(text) and not _MARKS.search(text):
        return text
    found: list[str] = []
    marks = 0
    for index, character in enumerate(text):
        marks = marks + 1 if unicodedata.category(character) in {"Mn", "Me"} else 0
        stays = _is_seen(character) if not _is_unseen(character) else _is_needed(text, index)
        found.append(character if stays and marks <= MOST_MARKS else _escape(character))
    return "".join(found)


def _is_unseen(character: str) -> bool:
    return _UNSEEN.match(character) is not None


def _is_seen(character: str) -> bool:
    """Whether a person sees something of a character, or at least the space that it takes."""
    category = unicodedata.category(character)
    if category in {"Zl", "Zp"} or category.startswith("C"):
        return _VISIBLE_FORMATS.match(character) is not None
    return True


def _is_needed(text: str, index: int) -> bool:
    """Whether a joiner or a variation selector stands where a script or an emoji needs it."""
    character = text[index]
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if not before or _NEVER.match(character):
        return False
    if character in "\u200c\u200d":
        return _joins(character, before, after)
    if "\u180b" <= character <= "\u180f":
        return _MONGOLIAN.match(before) is not None and not _is_unseen(before)
    if character >= "\U000e0100":
        return _IDEOGRAPH.match(before) is not None
    return after == "\u20e3" if before in "0123456789#*" else before > "\x9f" and not _is_unseen(before)


def _joins(character: str, before: str, after: str) -> bool:
    """Between letters of a script that joins, behind a sign that kills a vowel, or between two emoji."""
    if unicodedata.combining(before) == 9:  # noqa: PLR2004 - the class of viramas
        return True
    if not after or _is_unseen(after):
        return False
    if _COMPLEX.match(before) and _COMPLEX.match(after):
        return True
    emoji = unicodedata.category(before) in {"So", "Sk"} or before == "\ufe0f"
    return character == "\u200d" and emoji and before > "\x9f" and unicodedata.category(after) == "So"


def _cut(text: str, longest: int) -> str:
    """A text without its middle, if it is too long."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1].rstrip(_EDGE)}…{text[-tail:].lstrip(_EDGE)}"
