"""The page's files, as they are served: what a browser can't be asked about."""

import re
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = Path(__file__).parents[3] / "watchdog" / "control" / "page"
IMAGES: Final = Path(__file__).parents[3] / "docs" / "images"
FILES: Final = sorted(PAGE.iterdir())
MODULES: Final = [path for path in FILES if path.suffix == ".js"]

PARSES_MARKUP: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|parseFromString|createContextualFragment|document\.write|srcdoc"
    r"|\beval\b|new Function|javascript:"
)
ELSEWHERE: Final = re.compile(r"(?:https?:)?//[\w.-]+\.\w|@import|url\(")
INLINE: Final = re.compile(r"<style|<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=")
NAMESPACE: Final = 'xmlns="http://www.w3.org/2000/svg"'


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_nothing_turns_text_into_markup_or_code(path: Path) -> None:
    assert not PARSES_MARKUP.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    assert not ELSEWHERE.findall(path.read_text(encoding="utf-8").replace(NAMESPACE, ""))


def test_the_document_holds_no_script_and_no_style_of_its_own() -> None:
    assert not INLINE.findall((PAGE / "index.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (PARSES_MARKUP, "node.innerHTML = title"),
        (PARSES_MARKUP, 'node.insertAdjacentHTML("beforeend", title)'),
        (ELSEWHERE, '<script src="https://cdn.example.org/a.js">'),
        (ELSEWHERE, '@import "//fonts.example.org/a.css"'),
        (INLINE, "<script>alert(1)</script>"),
        (INLINE, '<p style="color: red">'),
        (INLINE, "<img src=x onerror=alert(1)>"),
    ],
)
def test_the_rules_see_what_they_forbid(rule: re.Pattern[str], text: str) -> None:
    assert rule.search(text)


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 80_000
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= 400


def test_its_pictures_in_the_documentation_are_small() -> None:
    pictures = {path.name: path.stat().st_size for path in IMAGES.iterdir()}
    assert pictures.keys() >= {"page-light.png", "page-dark.png", "page-narrow.png"}
    assert [name for name, size in pictures.items() if size >= 250_000] == []
