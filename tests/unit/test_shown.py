"""The one place through which every word passes before people see it."""

import dataclasses
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hostile import HOSTILE, JOINERS, ORDINARY, obeyed
from watchdog.alerts import rules as alerts
from watchdog.model import interventions, outcome, report, session, verdict
from watchdog.shown import (
    LONGEST,
    LONGEST_WORD,
    MOST_MARKS,
    Shown,
    Telling,
    defused,
    flat,
    in_json,
    joined,
    shown,
    stacked,
    tabbed,
    whole,
    words_of,
)

WORDS = st.one_of(
    st.sampled_from([*HOSTILE.values(), *ORDINARY]),
    st.text(max_size=600),
    st.text(alphabet="\x1b[]2J;\x07\x9b\u202e\u2066\u200d\u200c\ufe0f\n\t ab❤क्می", max_size=60),
    st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()), max_size=60),
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_every_language_stays_as_it_is(text: str) -> None:
    assert shown(text) == flat(text) == whole(text) == text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_obeys_or_nobody_sees_is_escaped(text: str) -> None:
    for made in (shown(text), flat(text), whole(text)):
        assert not obeyed(made)
        assert not JOINERS & set(made)
    assert len(shown(text)) <= LONGEST


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("ba\u200dsh", "ba\\u200dsh"),
        ("x\ufe0f", "x\\ufe0f"),
        ("❤\ufe0f\ufe0f", "❤\ufe0f\\ufe0f"),
    ],
)
def test_what_it_was_stays_readable(text: str, seen: str) -> None:
    assert shown(text) == seen


@settings(deadline=None)
@given(WORDS)
def test_nothing_comes_out_that_a_terminal_obeys(text: str) -> None:
    for made in (shown(text), flat(text), whole(text), joined(text, text), words_of(Exception(text))):
        assert isinstance(made, Shown)
        assert not obeyed(made)
        assert "\n" not in made
    assert not obeyed(defused(text).replace("\n", "").replace("\t", ""), own=_NOT_IN_THE_NET)
    assert not obeyed(tabbed(text, text), own="\t")
    assert tabbed(text, text).count("\t") == 1
    assert stacked(text, text).count("\n") == 1


_NOT_IN_THE_NET = "".join(
    character
    for character in map(chr, range(0x110000))
    if unicodedata.category(character) in {"Co", "Cn"}
    or (
        unicodedata.category(character) == "Cf"
        and ord(character) > 0x110BC
        and not 0xE0000 <= ord(character) < 0xE1000
    )
)
"""What no terminal obeys: it is left to the one place itself."""


@settings(deadline=None)
@given(WORDS)
def test_done_twice_it_is_as_done_once(text: str) -> None:
    once = shown(text)
    assert shown(str(once)) == once
    assert defused(once) == once
    assert shown(once) is once


@settings(deadline=None)
@given(WORDS, st.integers(4, 300))
def test_it_is_never_longer_than_it_may_be(text: str, longest: int) -> None:
    assert len(shown(text, longest=longest)) <= longest
    assert all(len(word) <= LONGEST_WORD for word in shown(text).split() if word.isascii())


def test_what_is_long_keeps_its_ends() -> None:
    assert shown("b" + "w" * 5000 + "e").startswith("bw")
    assert shown("b" + "w" * 5000 + "e").endswith("we")
    assert "…" in shown("w" * (LONGEST_WORD + 1))
    assert shown("w" * LONGEST_WORD) == "w" * LONGEST_WORD
    assert len(shown("a word " * 10_000)) == LONGEST
    assert whole("w" * 5000) == "w" * 5000


def test_a_letter_carries_some_marks_and_no_pile_of_them() -> None:
    assert shown("z" + "\u0301" * MOST_MARKS) == "z" + "\u0301" * MOST_MARKS
    assert shown("z" + "\u0301" * (MOST_MARKS + 1)) == "z" + "\u0301" * MOST_MARKS + "\\u0301"


def test_a_cell_of_a_pipe_is_one_cell_of_one_line() -> None:
    assert tabbed("kind", " a\tb\r\n c ", stacked("one", "two")) == "kind\ta b c\tone two"


def test_lines_are_the_watchdogs_own() -> None:
    assert stacked("a\nb", "c") == "a\\nb\nc"
    assert joined("error: ", stacked("a", "b")) == "error: a\nb"
    assert words_of(ValueError(stacked("a", "b"))) == "a\nb"
    assert words_of(ValueError("a\nb")) == "a\\nb"


@settings(deadline=None)
@given(st.dictionaries(WORDS, st.one_of(WORDS, st.floats(), st.none(), st.lists(WORDS, max_size=3)), max_size=4))
def test_json_keeps_each_value_and_spells_it_in_printable_ascii(document: dict[str, object]) -> None:
    for text in (in_json(document), in_json(document, indent=2)):
        assert text.replace("\n", "").isprintable()
        assert text.isascii()
        found = json.loads(text)
        assert found.keys() == document.keys()
        for key, value in document.items():
            assert found[key] == value or (isinstance(value, float) and found[key] == repr(value))


def test_every_sentence_of_the_nouns_is_fit_to_be_shown_from_the_start() -> None:
    """Whoever keeps, sends or writes one into a row need not think of it."""
    sentences = {"why", "detail", "problem", "why_incomplete", "title", "body", "reason"}
    for module in (session, report, verdict, outcome, interventions, alerts):
        for kind in vars(module).values():
            if not dataclasses.is_dataclass(kind) or kind.__module__ != module.__name__:
                continue
            texts = {each.name for each in dataclasses.fields(kind) if "str" in str(each.type)} & sentences
            assert texts <= set(getattr(kind, "told", ())), kind


def test_a_noun_with_a_hostile_sentence_tells_it_escaped() -> None:
    step = outcome.Step(step="abort", at_ms=1, ok=True, detail="\x1b[2J")
    assert step.detail == "\\x1b[2J"
    assert dataclasses.replace(step, detail="\x9b").detail == "\\x9b"
    assert isinstance(step, Telling)
