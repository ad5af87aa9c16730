"""Of a haproxy.cfg only the slots that hapsync wrote are understood, each under its section."""

import pytest

from hapsync.haproxy.cfg import (
    HEADER,
    SECTIONS,
    comments_in,
    enabled_servers,
    is_sealed,
    observed_from_file,
    parse_sections,
    sealed,
    server_options_in,
    skeleton,
    slot_names,
)
from hapsync.model.server import NO_LOAD, PLACEHOLDER, Address, AdminState, Backend, Observed, Server

READY, MAINT = AdminState.READY, AdminState.MAINT

FILE = """\
# server srv1 10.0.0.9:80 weight 1
global
    stats socket /run/haproxy/admin.sock
    server srv1 10.0.0.9:80
defaults
    default-server inter 5s
frontend web
    bind :80
    default_backend web
backend web
    balance leastconn # server srv9 10.0.0.9:80
    server srv2 10.0.0.2:8080 weight 256 check  # node "n2" service id "web-2"
    server srv10 [2001:db8::10]:80 weight 0 check disabled  # node "n10" service id "# \\" x"
    server mine 10.0.0.99:80 weight 1
    server srv1 127.0.0.1:1 weight 1 check inter 2s disabled  # free
    server srv03 10.0.0.3:80
\tserver  srv3\t10.0.0.3:80
listen api
    bind :81
    server srv1 10.0.1.1:80 check disabled weight 7
backend empty
    # nothing
backend
    server srv1 10.0.0.9:80
resolvers dns
    server srv5 10.0.0.9:80
"""


def slot(name: str, address: Address, admin: AdminState, weight: int) -> Server:
    return Server(name, address, admin, weight, is_up=admin is READY, load=NO_LOAD)


WEB = (
    slot("srv1", PLACEHOLDER, MAINT, 1),
    slot("srv2", Address("10.0.0.2", 8080), READY, 256),
    slot("srv3", Address("10.0.0.3", 80), READY, 1),
    slot("srv10", Address("2001:db8::10", 80), MAINT, 0),
)


def slots(text: str, backend: str = "web") -> tuple[Server, ...]:
    return observed_from_file(text, (backend,)).backends[backend].slots


def test_slots_are_found_under_their_backend_or_listen() -> None:
    assert set(slot_names(FILE)) == {"web", "api", "empty"}
    assert slots(FILE) == WEB
    assert slots(FILE, "api") == (slot("srv1", Address("10.0.1.1", 80), MAINT, 7),)
    assert slots(FILE, "empty") == ()


def test_the_comment_of_a_slot_is_what_follows_its_sign() -> None:
    assert comments_in(FILE) == {
        ("web", PLACEHOLDER): "free",
        ("web", Address("10.0.0.2", 8080)): 'node "n2" service id "web-2"',
        ("web", Address("10.0.0.3", 80)): "",
        ("web", Address("2001:db8::10", 80)): 'node "n10" service id "# \\" x"',
        ("api", Address("10.0.1.1", 80)): "",
    }


def test_an_empty_file_has_no_backends() -> None:
    assert slot_names("") == {}
    assert slot_names("\n# backend web\n") == {}


def test_a_file_that_nobody_changed_is_known_as_such() -> None:
    text = sealed(FILE)

    assert text.startswith(HEADER)
    assert text.endswith(f"\n{FILE}")
    assert is_sealed(text)
    assert is_sealed(sealed(""))
    assert is_sealed(sealed("# \udc80\n"))  # a byte that is not UTF-8, as it is read


@pytest.mark.parametrize(
    "text",
    [
        "",
        FILE,
        HEADER,
        HEADER + FILE,
        sealed(FILE) + "\n",
        sealed(FILE).replace("10.0.0.2", "10.0.0.3"),
        sealed(FILE).removeprefix(HEADER),
        "\n" + sealed(FILE),
        sealed(FILE).rstrip(),
    ],
    ids=lambda text: repr(text[-20:]),
)
def test_a_file_that_somebody_changed_is_known_as_such(text: str) -> None:
    assert not is_sealed(text)


def test_the_seal_is_no_part_of_what_a_file_is_made_from() -> None:
    other = FILE.replace("weight 256", "weight 255")

    assert skeleton(sealed(FILE)) == skeleton(sealed(other))
    assert skeleton(sealed(FILE)) == skeleton(HEADER + FILE)


@pytest.mark.parametrize("section", sorted(SECTIONS - {"backend", "listen"}))
def test_every_other_section_ends_a_backend(section: str) -> None:
    text = f"backend web\n{section} x\nserver srv1 10.0.0.1:80\n"

    assert slot_names(text) == {"web": frozenset()}


def test_a_backend_that_is_there_twice_is_one() -> None:
    text = "backend web\nserver srv2 10.0.0.2:80\nlisten api\nbackend web\nserver srv1 10.0.0.1:80\n"

    assert [one.name for one in slots(text)] == ["srv1", "srv2"]


@pytest.mark.parametrize(
    "words",
    [
        *("web.example.com:80", "10.0.0.1", "10.0.0.1:", ":80", "[::1]", "/run/app.sock", "10.0.0.1:80-90"),
        *("10.0.0.1:80 weight", "10.0.0.1:80 weight heavy", "[fe80::1%eth0]:80"),
    ],
)
def test_a_slot_that_cannot_be_understood_points_nowhere(words: str) -> None:
    (found,) = slots(f"backend web\n    server srv1 {words}\n")

    assert slot("srv1", PLACEHOLDER, READY, 1) == found


def test_only_lines_of_enabled_servers_count_as_such() -> None:
    text = "backend web\n    server-state-file-name global\n    server srv1 10.0.0.1:80 disabled\n"
    more = "    server a 10.0.0.1:80\n    server-template b 2 10.0.0.1:80\n"

    assert enabled_servers(text) == {"web": 0}
    assert enabled_servers(f"{text}{more}backend api\nbackend web\n{more}") == {"web": 4, "api": 0}


def test_a_server_line_without_an_address_is_none() -> None:
    assert slots("backend web\n    server srv1\n    server\n") == ()


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_only_a_newline_ends_a_line_as_in_haproxy(odd: str) -> None:
    text = f"backend web\n    # Our servers{odd}backend api{odd}\n    server srv1 10.0.0.1:80\n"

    assert [one.name for one in slots(text)] == ["srv1"]


def test_a_file_gives_the_reading_of_a_haproxy_started_with_it() -> None:
    expected = Observed(
        {
            "web": Backend("web", WEB),
            "empty": Backend("empty", exists=False),
            "nosuch": Backend("nosuch", exists=False),
        }
    )

    assert expected == observed_from_file(FILE, ("web", "empty", "nosuch"))


@pytest.mark.parametrize(
    "text",
    [
        FILE,
        "",
        "backend web\n    #server srv1 10.0.0.1:80\n    # server srv2 10.0.0.1:80\n",
        "backend web # ours\n    server srv1 10.0.0.1:80\n",
        "backend web#ours\n    server srv1 10.0.0.1:80\n",
        "backend web\n    server srv1 #10.0.0.1:80\n",
        "backend web\n    server\n    server srv1\n    server srv01 10.0.0.1:80\n",
        "backend web\n    # \x0cbackend api\n    server srv1 10.0.0.1:80\n",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_the_names_of_the_slots_alone_are_the_same(text: str) -> None:
    names = slot_names(text)

    assert names == {name: {one.name for one in slots(text, name)} for name in names}


CONFIG = """\
global
backend web
    server srv1 1.2.3.4:80 weight 1 check inter 2s  # one
    server other 1.2.3.4:80
listen api
    mode http
    server srv1 1.2.3.5:80 weight 1 check disabled  # two
    server dyn-web-1-1a2b3c4 1.2.3.6:80 id 27440068 weight 1 check  # three
"""


def test_the_options_of_a_file_are_read_back() -> None:
    assert server_options_in(parse_sections(CONFIG)) == {"web": "check inter 2s", "api": "check"}
