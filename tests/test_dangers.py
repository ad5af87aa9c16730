"""Where `add server` with a check would end HAProxy, by the text of its files."""

import pytest

from hapsync.haproxy.cfg import parse_sections
from hapsync.haproxy.cfg_diff import difference
from hapsync.haproxy.dangers import fatal_addition, has_check, safe_defaults

EXT = "option external-check"


@pytest.mark.parametrize(
    "text",
    [
        f"backend web\n {EXT}\n",
        f"listen web\n {EXT}\n",
        f"defaults\n {EXT}\nbackend web\n mode http\n",
        f"defaults\n {EXT}\nfrontend in\n bind :80\nbackend web\n",
        f"defaults a\n {EXT}\ndefaults b\n mode http\nbackend web from a\n",
        f"defaults a\n {EXT}\ndefaults b from a\n mode http\nbackend web from b\n",
        f"defaults\n option httpchk\nbackend web\n {EXT}\n",
        f"backend web\n option tcp-check\n {EXT}\n",
        'backend web\n option "external-check"\n',
        "backend web\n option 'external-check'\n",
        "backend web\n option external\\x2dcheck\n",
        'backend "web"\n option external-check\n',
        'backend web\n option "${CHECK}"\n',
        f"backend web\n .if defined(A)\n {EXT}\n .endif\n",
        f"backend web\n {EXT}\n .if defined(A)\n option httpchk\n .endif\n",
        f".if defined(A)\ndefaults\n {EXT}\n.else\ndefaults\n mode http\n.endif\nbackend web\n mode http\n",
        f"backend other\n {EXT}\nbackend web from elsewhere\n",
        f"backend other\n {EXT}\ndefaults a from elsewhere\nbackend web from a\n",
        f"defaults a\n {EXT}\nbackend other\n",  # `web` was added to the running HAProxy
    ],
)
def test_a_checked_server_is_not_added_where_its_check_may_be_a_program(text: str) -> None:
    assert fatal_addition(parse_sections(text), "web", "check")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "backend web\n option httpchk\n",
        f"defaults\n {EXT}\nbackend web\n option httpchk\n",
        f"defaults\n {EXT}\n option tcp-check\nbackend web\n mode http\n",
        f"defaults\n {EXT}\ndefaults\n mode http\nbackend web\n",
        f"defaults a\n {EXT}\ndefaults b\n mode http\nbackend web from b\n",
        f"backend web\n mode http\nbackend other\n {EXT}\n",
        f"backend web\n # {EXT}\n",
        "global\n external-check\nbackend web\n external-check command /bin/true\n",
        f"backend other\n {EXT}\ndefaults a\n mode http\n",  # `web` was added to the running HAProxy
        "backend web\n .if defined(A)\n option httpchk\n .endif\n",
        'defaults\n option forwardfor\n log-format "$A"\nbackend web\n',
    ],
)
def test_a_checked_server_is_added_where_its_check_is_none_by_a_program(text: str) -> None:
    assert fatal_addition(parse_sections(text), "web", "check") == ""


OFF = [
    "backend web\n disabled\n",
    "defaults\n disabled\nbackend web\n mode http\n",
    'backend web\n "disabled"\n',
    "backend web\n disabled\n .if defined(A)\n enabled\n .endif\n",
]
ON = ["backend web\n server a 10.0.0.1:80 disabled\n", "defaults\n disabled\nbackend web\n enabled\n"]


@pytest.mark.parametrize(("text", "is_fatal"), [*((text, True) for text in OFF), *((text, False) for text in ON)])
def test_no_server_at_all_is_added_to_a_backend_that_is_disabled(text: str, is_fatal: bool) -> None:  # noqa: FBT001
    assert bool(fatal_addition(parse_sections(text), "web", "")) is is_fatal


@pytest.mark.parametrize(("options", "has"), [("check inter 1s", True), ("agent-check", False), ("", False)])
def test_only_the_health_check_counts(options: str, has: bool) -> None:  # noqa: FBT001
    assert has_check(options) is has


def test_a_whole_backend_is_added_from_defaults_only_whose_checks_are_no_program() -> None:
    text = (
        f"defaults a\n {EXT}\ndefaults b from a\n option httpchk\ndefaults c from a\ndefaults d\n mode http\n"
        "defaults e from elsewhere\ndefaults\n mode http\n"
    )

    assert sorted(safe_defaults(parse_sections(text), is_checked=True)) == ["b", "d"]
    assert sorted(safe_defaults(parse_sections(text), is_checked=False)) == ["a", "b", "c", "d"]
    assert sorted(safe_defaults(parse_sections("defaults a\n disabled\n"), is_checked=False)) == []


@pytest.mark.parametrize(("options", "is_live"), [("check", False), ("agent-check agent-port 1", True)])
@pytest.mark.parametrize("defaults", ["apps", "missing"])
def test_a_backend_whose_checks_may_be_a_program_is_not_plain(options: str, is_live: bool, defaults: str) -> None:  # noqa: FBT001
    head = f"defaults apps\n    mode http\n    {EXT}\n"
    new = f"backend new from {defaults}\n    server srv1 127.0.0.1:1 weight 1 {options} disabled  # free\n"

    assert (difference(head, head + new) is not None) is (is_live and defaults == "apps")
