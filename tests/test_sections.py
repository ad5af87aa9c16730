"""Which lines are in force where, by HAProxy's rules of sections and defaults."""

import pytest

from hapsync.haproxy.cfg import default_server_words, parse_sections, stick_tables
from hapsync.haproxy.dangers import takes_servers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backend web\n  server a 1.2.3.4:80\n", ()),
        ("backend web\n  default-server inter 2s # always\n", ("inter", "2s")),
        ("defaults\n  default-server inter 2s\nbackend web\n  default-server rise 3\n", ("inter", "2s", "rise", "3")),
        ("defaults\n  default-server inter 2s\ndefaults\n  mode http\nbackend web\n", ()),
        ("defaults\n  default-server inter 2s\nfrontend in\n  bind :80\nbackend web\n", ("inter", "2s")),
        ("defaults a\n  default-server inter 2s\ndefaults b\n  mode http\nbackend web from a\n", ("inter", "2s")),
        ("defaults a\n  default-server inter 2s\ndefaults b from a\n  mode http\nlisten web\n", ("inter", "2s")),
        ("backend other\n  default-server inter 2s\nbackend web\n  mode http\n", ()),
    ],
)
def test_default_server_lines_are_those_of_the_backend_and_of_its_defaults(text: str, words: tuple[str, ...]) -> None:
    assert default_server_words(parse_sections(text))["web"] == words


def test_a_section_has_its_own_lines_after_those_of_its_defaults_each_with_its_number() -> None:
    [defaults, web] = parse_sections("defaults\n  mode http\n\nbackend web # the site\n  balance source\n")

    assert (defaults.kind, defaults.name, web.kind, web.name) == ("defaults", "", "backend", "web")
    assert [(line.number, line.words) for line in web.lines] == [(2, ("mode", "http")), (5, ("balance", "source"))]


def test_an_option_may_be_taken_back_by_a_later_line() -> None:
    [_, web, api] = parse_sections(
        "defaults\n option redispatch 1\nbackend web\n no option redispatch\nbackend api\n option redispatch\n"
    )

    assert web.has_option("redispatch") is None
    assert api.has_option("redispatch") is not None


def test_of_what_counts_once_the_last_line_counts() -> None:
    [_, web] = parse_sections("defaults\n balance source\nbackend web\n balance leastconn\n")
    line = web.last("balance")

    assert line is not None
    assert line.words == ("balance", "leastconn")


def test_a_global_section_inherits_nothing() -> None:
    [_, settings] = parse_sections("defaults\n mode http\nglobal\n nbthread 2\n")

    assert [line.words for line in settings.lines] == [("nbthread", "2")]


@pytest.mark.parametrize(
    ("lines", "tables"),
    [
        ("stick-table type ip size 1k\n stick on src", ("web",)),
        ("stick on src table other", ("other",)),
        ("stick match src table a\n stick store-request src table b\n stick on src", ("a", "b", "web")),
        ("stick on src table mates/a", ("mates/a",)),
        ("stick on src table a;b", ()),
        ("stick-table type ip size 1k", ()),
    ],
)
def test_stick_lines_name_their_table_or_mean_their_own(lines: str, tables: tuple[str, ...]) -> None:
    assert stick_tables(parse_sections(f"backend web\n {lines}\n"))["web"] == tables


@pytest.mark.parametrize(
    ("lines", "is_sure"),
    [
        ("", True),
        ("mode tcp", True),
        ("balance leastconn", True),
        ("balance random(3)", True),
        ("balance uri\n hash-type consistent", True),
        ("balance hdr(host)\n hash-type consistent sdbm", True),
        ("balance uri", False),
        ("balance uri\n hash-type map-based", False),
        ("balance static-rr", False),
        ("balance", False),
        ('balance "roundrobin"', True),
        ('balance "$ALGORITHM"', False),
        ("balance ${ALGORITHM}", False),
        ("mode log", False),
        ("mode ${MODE}", False),
        ("disabled", False),
        ("dispatch 10.0.0.1:80", False),
        ("option transparent", False),
        (".if defined(A)\n balance static-rr\n .endif", False),
    ],
)
def test_whether_a_backend_takes_servers_is_told_by_its_lines_only_where_they_are_plain(
    lines: str,
    is_sure: bool,  # noqa: FBT001
) -> None:
    assert ("web" in takes_servers(parse_sections(f"backend web\n {lines}\n"))) is is_sure
    assert ("web" in takes_servers(parse_sections(f"defaults\n {lines}\nbackend web\n"))) is is_sure
