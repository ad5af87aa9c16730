"""One word for one idea: the glossary of docs/architecture.md, and words that were given up."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.harness.tools import ROOT

GLOSSARY = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("\n## Glossary\n")[2]
DEFINED = re.findall(r"\*\*([a-z ]+)\*\*: ", GLOSSARY)
SOURCES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "hapsync").rglob("*.py")}
CODE = re.sub(r"[\s_]+", " ", "\n".join(SOURCES.values())).lower()
MOST = 90
"""Words of a project that a newcomer can be asked to learn."""
GIVEN_UP = {
    "aside": "copy, or override",
    "dues": "schedule",
    "held_down": "damped",
    "journal": "report",
    "means": "scaling",
    "memory": "state file",
    "paper": "config file",
    "patience": "acquire timeout",
    "people": "operator",
    "picture": "target",
    "presence": "liveness",
    "proof": "first check",
    "sweep": "read once",
    "unsure": "why_unknown",
}
"""Words that were identifiers, and the word that each became."""


def identifiers(source: str) -> Iterator[str]:
    """Yield the names in `source`, as words in lower case with `_` between them."""
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(name := getattr(node, field, None), str):
                yield _in_words(name.rpartition(".")[2])


def _in_words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")


def test_the_glossary_is_short_and_gives_each_word_one_meaning() -> None:
    assert 50 < len(DEFINED) <= MOST
    assert sorted(DEFINED) == sorted(set(DEFINED))


@pytest.mark.parametrize("word", DEFINED)
def test_a_word_of_the_glossary_is_in_the_code(word: str) -> None:
    assert re.search(rf"\b{word}", CODE)


def test_no_identifier_has_a_word_that_was_given_up() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}, say {better}"
        for path, source in SOURCES.items()
        for name in identifiers(source)
        for word, better in GIVEN_UP.items()
        if f"_{word}_" in f"_{name}_"
    }

    assert found == set()


def test_names_are_taken_apart() -> None:
    source = (
        "from a.dues import Dues\nclass SetAside:\n    def on_paper(self, meansOf=1): self._journal = x(memory=2)\n"
    )

    assert set(identifiers(source)) == {"dues", "set_aside", "on_paper", "self", "means_of", "journal", "x", "memory"}


PAGES = ("architecture", "commands", "configuration", "fleet", "reliability", "situations")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page, without its blocks and pieces of code; a cell of a table ends a sentence."""
    prose = re.sub(r"`[^`]*`", "X", re.sub(r"(?s)```.*?```", "", text))
    for part in re.split(r"[|\n]", prose):
        yield from (one.strip("-* #") for one in re.split(r"(?<=[.!?:])\s+", part.strip()))


@pytest.mark.parametrize("page", PAGES)
def test_a_sentence_names_its_subject_and_has_one_clause_at_most(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    hard = [one for one in sentences(text) if is_hard_to_read(one)]

    assert hard == []


def is_hard_to_read(sentence: str) -> bool:
    """Whether a sentence begins with a word for another one's subject, or has two clauses with that or which."""
    begins_badly = re.match(r"(That|Those|Nor|There)\b", sentence)
    return begins_badly is not None or len(re.findall(r"\b(?:that|which)\b", sentence)) > 1


def test_sentences_that_are_hard_to_read_are_noticed() -> None:
    text = "# A\n\nOne that is, which was. Fine that is.\n| a | That is bad. |\n```\nThose\n```\n- There is `that`.\n"

    assert [one for one in sentences(text) if is_hard_to_read(one)] == [
        "One that is, which was.",
        "That is bad.",
        "There is X.",
    ]
