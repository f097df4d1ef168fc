"""The page shows words as the program does: its copy of the one place gives the same in every case."""

import json
import random
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Final

import pytest

from tests.support.hostile import HOSTILE, ORDINARY
from watchdog import shown as place
from watchdog.shown import in_json, shown

PAGE: Final = Path(__file__).parents[3] / "watchdog" / "control" / "page"
FIT: Final = (PAGE / "fit.js").read_text(encoding="utf-8")
RUN: Final = """
import { readFileSync } from "node:fs";
const { fit } = await import(process.argv[1]);
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf-8")).map(fit)));
"""


def _drawn(seed: int, many: int) -> list[str]:
    """Words with much in them that matters."""
    rng = random.Random(seed)  # noqa: S311 - for words
    near = [*"ab 1#\\\u0301\u200d\u200c\ufe0f❤👩🏽क्مین\u180b\u1820葛\U000e0100\x1b\x9b\u202e\n\t\x7f\u3164\ue000é…"]
    words = ["".join(rng.choices(near, k=rng.randrange(1, 30))) for _ in range(many)]
    return words + [word * rng.randrange(20, 700) for word in words[: many // 10]]


def test_the_page_knows_the_same_characters() -> None:
    for name in ("_ALWAYS", "_SOMETIMES"):
        found = re.search(rf"const {name.removeprefix('_')} = (.*?);", FIT, re.DOTALL)
        assert found is not None
        text = "".join(re.findall(r'"([^"]*)"', found.group(1))).replace("\\\\", "\\")
        text = re.sub(r"\\u\{([0-9a-f]+)\}", lambda each: f"\\U{each.group(1):0>8}", text)
        assert text.encode("ascii").decode("unicode_escape") == getattr(place, name)


def test_the_page_knows_every_sign_that_kills_a_vowel_of_the_scripts_that_join() -> None:
    known = re.search(r"const VIRAMA = /\[(.*?)\]/u", FIT)
    assert known is not None
    listed = set(known.group(1).encode("ascii").decode("unicode_escape"))
    viramas = {chr(code) for code in range(0x0900, 0x1800) if unicodedata.combining(chr(code)) == 9}
    assert {each for each in viramas if each not in "\u0e3a\u0eba\u0f84\u1714\u1715\u1734"} <= listed


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the page's code with")
def test_the_page_shows_each_word_as_the_program_does() -> None:
    words = [*HOSTILE.values(), *ORDINARY, *_drawn(1, 2000)]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", RUN, str(PAGE / "fit.js")],
        input=in_json(words), capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    for word, seen in zip(words, json.loads(done.stdout), strict=True):
        assert seen == shown(word), ascii(word)


def test_every_text_of_the_page_goes_through_it() -> None:
    """Elements are made in one module, and nothing else sets a text of somebody's."""
    setting = re.compile(r"\.(?:textContent|innerText|nodeValue|data)\s*=(?!=)|createTextNode|\.append\(|\.prepend\(")
    own = {("dom.js", "node.textContent = wanted"), ("explanation.js", "asOf.textContent")}
    for path in sorted(PAGE.glob("*.js")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if setting.search(line) and not any(path.name == name and words in line for name, words in own):
                elements = "node.append(...there" in line or re.search(r"\.append\((?:body|\w+), el\(", line)
                assert elements, f"{path.name}: {line}"
