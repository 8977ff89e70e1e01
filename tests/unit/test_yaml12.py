"""YAML 1.2 by itself; what recipes make of it is tested with the recipe."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.yaml12 import NotYamlError, dump, parse

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abno01-:. é#'\"_~\n", max_size=8)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abn1", max_size=4), inner, max_size=3)
)


@pytest.mark.parametrize("word", ["2024-01-31", "2024-01-31T10:00:00Z", "2024-01-31 10:00:00", "2001-1-1", "12:30"])
def test_a_date_stays_a_word(word: str) -> None:
    assert parse(f"when: {word}") == {"when": word}
    assert parse(f"- {word}") == [word]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("null", None), ("~", None), ("", None), ("true", True), ("False", False), ("yes", "yes"), ("off", "off"),
        ("1", 1), ("0o17", 15), ("0xff", 255), ("1e3", 1000.0), ("-.inf", float("-inf")), ("1_0", "1_0"), ("1_0.5", "1_0.5"),
        ("'1'", "1"), ('"no"', "no"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_version_1_2_says(text: str, tree: Any) -> None:
    found = parse(text)
    assert found == tree
    assert type(found) is type(tree)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\na: 2\n", 2), ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", 5), ("# first\n\nx: {a: 1, b: 2, a: 3}\n", 3)],
)
def test_a_key_given_twice_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(NotYamlError, match=rf"duplicate key.*\(line {line}\)") as caught:
        parse(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("text", "line"), [("a: [1\n", 2), ("a: 'x\n", 2), ("a: 1\n\tb: 2\n", 2), ("a: 1\nb: *c\n", 2)])
def test_what_is_broken_is_refused_in_one_line_that_says_where(text: str, line: int) -> None:
    with pytest.raises(NotYamlError, match=rf"\(line {line}\)") as caught:
        parse(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_mapping_keeps_its_own_order() -> None:
    tree = {"z": 1, "a": {"y": [1, 2], "b": None}, "m": "no"}
    text = dump(tree)
    assert list(parse(text)) == ["z", "a", "m"]
    assert text.splitlines()[0] == "z: 1"
    assert list(parse(text)["a"]) == ["y", "b"]


@given(TREES)
def test_what_is_dumped_is_parsed_again_as_it_was(tree: Any) -> None:
    assert parse(dump(tree)) == tree


@pytest.mark.parametrize("word", ["2024-01-31", "1_000", "no", "null", "1e3", "0x1F", "true", "1.0", "~", "", "a: b", "- a", "#"])
def test_words_that_look_like_something_else_survive(word: str) -> None:
    assert parse(dump({"word": word})) == {"word": word}


@pytest.mark.parametrize("word", ["0b11", "-0b1", "+0b0"])
def test_binary_numbers_are_words(word: str) -> None:
    assert parse(f"a: {word}") == {"a": word}
