"""Words that somebody chose to do harm with, and what of them must never be shown as it is."""

import re
import unicodedata
from typing import Final

HOSTILE: Final = {
    "clears the screen": "\x1b[2Jcls",
    "sets a title": "\x1b]0;owned\x07x",
    "sets a title, ended by ST": "\x1b]2;owned\x1b\\x",
    "copies to the clipboard": "\x1b]52;c;ZWNobyBoaQ==\x07",
    "links": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "asks the terminal": "\x1bP$qm\x1b\\ \x1b[c \x05",
    "sends an application command": "\x1b_Ga=T\x1b\\",
    "sends a privacy message and a string": "\x1b^pm\x1b\\ \x1bXsos\x1b\\",
    "speaks C1": "\x9b2J \x9d0;t\x9c \x90q\x9c \x85 \x84",
    "goes back": "rm\b\b\b\r\x7fls",
    "breaks the line": "bash\n2026-01-01T00:00:00Z [error] forged\r\nrow\tcell\x0b\x0c",
    "breaks it as Unicode does": "a\u2028b\u2029c",
    "turns the direction": "\u202egnp.exe\u202c \u202ax\u202b \u202d",
    "isolates": "\u2066a\u2067b\u2068c\u2069",
    "marks the direction": "\u200ea\u200fb\u061cc",
    "has no width": "a\u200bb\u2060c\ufeffd\u00ade\u2064f\u180eg",
    "joins what does not join": "ba\u200dsh\u200c ls\ufe0f",
    "hides tags": "x\U000e0001\U000e0068\U000e0069\U000e007f",
    "hides bytes in selectors": "x\U000e0100\U000e0110\U000e01ef",
    "is half a character": "\ud800 \udfff \udc80",
    "is nobody's": "\ue000\U000f0000\ufdd0\uffff\U0010ffff",
    "fills with nothing": "\u3164\u115f\u1160\uffa0\u034f",
    "is a NUL": "a\0b",
    "piles marks": "z" + "\u0301\u0327" * 40,
    "is markup": "[red]tool[/red] [link=http://evil.example]x[/] :warning: \\[bold]",
    "is very long": "w" * 20_000,
}
"""Each by what it tries."""

ORDINARY: Final = (
    "bash", "mcp_grün-größe", "naïve café", "cafe\u0301", "日本語のツール", "全角\u3000空白", "한국어 도구",
    "ไทยทำงาน", "עברית", "العربية", "می\u200cخواهم", "क्\u200dष", "नमस्ते",  # noqa: RUF001 - it is Persian
    "தமிழ்", "မြန်မာ", "👨\u200d👩\u200d👧", "❤\ufe0f", "❤\ufe0f\u200d🔥", "👍🏽", "1\ufe0f\u20e3", "🇩🇪",
    "5\u202f000 €", "a b", "Tiếng Việt", "Ω≈ç√∫", "葛\U000e0100城", "C:\\tools\\x", "%s {x} $(y) `z`",
)  # fmt: skip
"""What stays as it is."""

JOINERS: Final = frozenset("\u200c\u200d")
_SIGNS: Final = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Unicode files them under formatting, and people see them."""
_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f]")


def obeyed(text: str, *, own: str = "") -> list[str]:
    """The characters of a text that a terminal would obey, or that nobody sees.

    Joiners and variation selectors are no part of it: some scripts can't be written without them.

    Args:
        own: characters that the one who wrote the text may use, such as its line breaks.
    """
    found = []
    for character in text:
        if character in own or character in JOINERS or _SELECTORS.match(character):
            continue
        category = unicodedata.category(character)
        hidden = (
            category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} or character in "\u3164\u115f\u1160\uffa0\u034f"
        )
        if hidden and character not in _SIGNS:
            found.append(character)
    return found
