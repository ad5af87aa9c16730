"""A line's words are those that a real HAProxy takes: it is given lines of random signs and says what it took."""

import random
from pathlib import Path

from hapsync.haproxy.cfg import split_line
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.ports import free_port

ESCAPES = ["\\" + sign for sign in ("\\", " ", "t", "r", "#", '"', "'", "a", "\t", "x41", "x22", "x5c", "x20")]
SIGNS = [*"\"'\\# \ta", *ESCAPES, "\x0b", "\x1c", "\xa0", "é"]
LINES = 600


def odd_line(chance: random.Random, name: str) -> str:
    """Return a line `setenv NAME VALUE` that HAProxy takes: its quotes end, and its one value is not empty."""
    while True:
        value = "".join(chance.choices(SIGNS, k=chance.randint(1, 12)))
        line = f"{chance.choice(['', '    ', chr(9), chr(11)])}setenv {name} {value}"
        words, comment = split_line(line)
        has_ended = bool(comment) or split_line(f"{line} end")[0] == [*words, "end"]
        if len(words) == 3 and words[2] and has_ended:
            return line


def test_a_real_haproxy_takes_the_same_words(work: Path) -> None:
    chance = random.Random(7)
    lines = {f"ODD{number}": odd_line(chance, f"ODD{number}") for number in range(LINES)}
    lines |= {
        "WORD1": "setenv WORD1 a\"b 'c\"'d \"e'\\#\\ f # no comment",
        "WORD2": "setenv WORD2 'a # b'#c",
        "WORD3": 'setenv WORD3 "a # b" # c',
        "WORD4": "\tsetenv\tWORD4\x0b\x0ca\\#b\\ c# d",
        "WORD5": 'setenv "WORD5" "\\$HOME" # $HOME',
        "WORD6": 'set"env" WORD6 $HOME',
        "WORD7": "setenv WORD7 '$HOME'\\$HOME",
        "WORD8": "setenv WORD8 a\r b",
    }
    config = work / "haproxy.cfg"
    text = minimal_config(work / "admin.sock", free_port(), {"web": ["server a 127.0.0.1:1"]})
    text = text.replace("global\n", "global\n" + "".join(f"{line}\n" for line in lines.values()), 1)
    config.write_text(text, encoding="utf-8", newline="")

    with HAProxy(config, work) as haproxy:
        said = dict(line.split("=", 1) for line in haproxy.ask("show env").split("\n") if "=" in line)

    assert {name: split_line(line)[0][2] for name, line in lines.items()} == {name: said[name] for name in lines}
