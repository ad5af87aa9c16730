"""Everything that a service, a node or a check in Consul's catalog may be named, made to break what reads it.

The same seed gives the same attacks. Nothing here is random otherwise.
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

PIECES = (
    *("\n", "\r", "\r\n", "\0", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\t", "\x1a", "\x7f"),
    *(
        ";",
        "; ",
        " <<",
        "<<\n",
        "#",
        "\\",
        "\\\n",
        "\\x0a",
        "\\n",
        '"',
        "'",
        '\\"',
        "`",
        "$(id)",
        "${HOME}",
        "%s%n",
        "|",
        "&",
    ),
    *("{{ 7*7 }}", "{% raw %}", "{{ servers('web') }}", "{#", "#}", "\x01", "\x02"),
    *("\x1b[2J", "\x1b]0;owned\x07", "\x1b[31m", "\x9b31m", "\b\b\b", "[red]", "[/]", ":warning:"),
    *(
        "é",
        "ÿ",
        "日本",
        "\ud800",
        "\udc0a",
        "\u202e",
        "\u200b",
        "\ufeff",
        "\uff1b",
        "\uff0e",
        "\u0660",
        "\U0001f642" * 130,
    ),
    *("a" * 300, "-" * 128, "x" * 17_000, " " * 200),
    *("server", " backup", " weight 256", " disabled", " track x/y", " addr 127.0.0.1:1", " source 0.0.0.0"),
    *("\nbackend evil\n    server e 127.0.0.1:9", "\nglobal\n    stats socket /e", "\n    http-request deny"),
    *(
        "; set server canary/one weight 0",
        "\nset server canary/one state maint",
        "; shutdown sessions server canary/one",
    ),
    *(" <<\nset server canary/one addr 127.0.0.1 port 9\n\n", "; disable server canary/one", "; quit", "\nquit\n"),
    *("canary/one", "../canary/one", "srv1", "canary", "10.0.0.1", ":80", "/", "//", "..", "%0a", "%00", "&#10;"),
    *("null", "true", "0", "-1", "NaN", "1e309", "_node_maintenance", "_service_maintenance:", "passing"),
)
HOSTS = (
    *(
        "web.example.com",
        "localhost",
        "fe80::1%eth0",
        "fe80::1%25eth0",
        "::1%\n",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
    ),
    *(
        "169.254.1.1",
        "fe80::1",
        "255.255.255.255",
        "::ffff:10.0.0.1",
        "::ffff:0.0.0.0",
        "127.0.0.1",
        "127.1",
        "010.0.0.1",
    ),
    *("10.0.0.1:80", "[::1]", "10.0.0.1/24", "10.0.0", "10.0.0.256", "0x7f.1", "2130706433", "10.0.0.1 port 1"),
    *(
        "unix@/run/x.sock",
        "abns@x",
        "fd@0",
        "ipv4@10.0.0.1",
        "quic4@10.0.0.1",
        "udp@10.0.0.1",
        "${HOST}",
        "*",
        "-",
        "",
    ),
    *("\u0661\u0660.\u0660.\u0660.\u0661", "10\u30020\u30020\u30021", "\uff11\uff10.0.0.1", "10.0.0.1\u200b"),
)
PORTS: tuple[Any, ...] = (
    *(0, -1, 1, 22, 65535, 65536, 2**31, 2**64, 10**40, True, False, None, "80", "80\n", "80;", 80.0, 1e400, [], {}),
)
WEIGHTS: tuple[Any, ...] = (0, 1, 256, 257, 65535, 65536, -1, 2**64, True, None, "1", "1; x", 1.5, [1], {})
STATUSES = ("passing", "passing", "passing", "warning", "critical")

KINDS = 12
"""How many values are made for each instance, the shape of its entry aside."""


class Attacker:
    """Makes entries of `/v1/health/service/NAME`; `made` counts the values in them."""

    def __init__(self, seed: int) -> None:
        self.made = 0
        self._chance = random.Random(seed)
        self._number = 0

    def answers(self, count: int, instances: int) -> Iterator[bytes]:
        """Yield `count` answers of Consul, of `instances` each: whole ones, with anything in them."""
        for _ in range(count):
            yield json.dumps([self.entry() for _ in range(instances)]).encode()

    def entry(self) -> dict[str, Any]:
        """Return one entry; most are fit to be served, or nothing of them would get far."""
        self.made += KINDS
        chance = self._chance
        return {
            "Node": {"Node": self.text(), "Address": self.host(), "Meta": {self.text(): self.text()}},
            "Service": {
                "ID": self.text(),
                "Service": self.text() if chance.random() < 0.1 else "web",
                "Address": self.host(),
                "Port": 8000 + self._number % 1000 if chance.random() < 0.8 else chance.choice(PORTS),
                "Tags": [self.text(), "wanted"],
                "Meta": {self.text(): self.text()},
                "Weights": {"Passing": self.weight(), "Warning": self.weight()},
            },
            "Checks": [
                {"CheckID": self.text(), "Status": self.status(), "Output": self.text(), "Notes": self.text()}
            ],
        }

    def text(self) -> str:
        """Return a name: up to five pieces, some in the middle of innocent ones."""
        chance = self._chance
        pieces = [chance.choice(PIECES) for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5)))]
        if chance.random() < 0.5:
            pieces.insert(chance.randrange(len(pieces) + 1), "web-7")
        if chance.random() < 0.2:
            pieces.append(
                "".join(chr(chance.choice((chance.randrange(256), chance.randrange(0x3000)))) for _ in "1234")
            )
        return "".join(pieces)

    def host(self) -> str:
        """Return an address, mostly one that is right and that no other instance has."""
        chance, self._number = self._chance, self._number + 1
        low = self._number
        innocent = f"10.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}" if low % 5 else f"2001:db8::{low & 0xFFFF:x}"
        match chance.randrange(20):
            case 0:
                return chance.choice(HOSTS)
            case 1:
                return innocent + chance.choice(PIECES)
            case 2:
                return chance.choice(PIECES) + innocent
            case 3:
                return self.text()
            case 4:
                return innocent.replace(".", chance.choice((".", ". ", "\n.", "\u3002")), 1)
            case _:
                return innocent

    def weight(self) -> Any:
        """Return a weight; most are Consul's own."""
        return self._chance.choice(WEIGHTS) if self._chance.random() < 0.15 else self._chance.randrange(300)

    def status(self) -> str:
        """Return a check's status; a strange one is critical."""
        return self.text() if self._chance.random() < 0.05 else self._chance.choice(STATUSES)

    def choice(self, things: Sequence[Any]) -> Any:
        """Return one of `things`."""
        return self._chance.choice(things)
