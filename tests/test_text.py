"""Text from outside is safe to show."""

import pytest

from hapsync.text import plural, quoted, shown

HOSTILE = [
    "\n",
    "\r",
    "\t",
    "\0",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202e",
    '"',
    "\\",
    "é",
    "\U0001f600",
    "\ud800",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_shown_text_is_printable_ascii_on_one_line(hostile: str) -> None:
    text = shown(f"a{hostile}b")

    assert text.isascii()
    assert text.isprintable()
    assert [text] == text.splitlines()
    assert "\\" in text


def test_plain_text_is_shown_as_it_is() -> None:
    text = "web-1; drop `table` <<{{ servers() }} #'%$"

    assert text == shown(text)


def test_distinct_short_texts_stay_distinct() -> None:
    texts = ["a\nb", "a\\nb", 'a"b', 'a\\"b', "a\\b", "a\x7fb"]

    assert len(texts) == len({shown(text) for text in texts})


def test_long_text_is_cut_and_says_so() -> None:
    assert shown("a" * 128) == "a" * 128
    assert shown("a" * 129) == "a" * 125 + "..."
    assert shown("a" * 300, length=5) == "aa..."


def test_quoted_text_stands_between_double_quotes_and_holds_none() -> None:
    assert quoted('a"b') == '"a\\"b"'
    assert quoted("abcdefgh", length=5) == '"ab..."'


def test_one_is_singular_and_the_rest_is_plural() -> None:
    assert [plural(count, "server") for count in range(3)] == ["0 servers", "1 server", "2 servers"]


@pytest.mark.parametrize("sign", ["\n", "\x1b", "é", "\U0001f600", '"'], ids=ascii)
def test_text_full_of_escapes_is_cut_between_two_of_them(sign: str) -> None:
    text = shown(sign * 128, length=20)
    escape = shown(sign)

    assert len(text) <= 40
    assert text == escape * text.count(escape) + "..."
