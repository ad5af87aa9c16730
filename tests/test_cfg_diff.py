"""Two files that differ by whole plain backends, and by more than that."""

import pytest
from hypothesis import given, strategies as st

from hapsync.haproxy.cfg_diff import Difference, PlainBackend, difference

HEAD = """\
global
    stats socket /run/haproxy.sock level admin

defaults apps
    mode http

defaults more from apps
    default-server inter 1s

frontend public from apps
    bind :80
    use_backend app-%[path,field(2,/)]
"""


def plain(name: str, options: str = "check", slots: int = 2) -> str:
    lines = "".join(
        f"    server srv{number} 127.0.0.1:1 weight 1 {options} disabled  # free\n" for number in range(1, slots + 1)
    )
    return f"\n# one of many\nbackend {name} from apps\n{lines}"


BACKENDS = {name: plain(name, options) for name in ("a", "b", "c") for options in ("check",)}
NAMES = st.lists(st.sampled_from(sorted(BACKENDS)), unique=True)


@given(NAMES, NAMES)
def test_files_that_differ_by_plain_backends_differ_by_just_those_in_whatever_order(
    has: list[str], needs: list[str]
) -> None:
    found = difference(
        HEAD + "".join(BACKENDS[name] for name in has), HEAD + "".join(BACKENDS[name] for name in needs)
    )

    assert found is not None
    assert {one.name for one in found.new} == set(needs) - set(has)
    assert {one.name for one in found.gone} == set(has) - set(needs)


@given(NAMES, st.integers(0, 3), st.booleans())
def test_where_a_plain_backend_stands_does_not_matter(names: list[str], place: int, is_first: bool) -> None:  # noqa: FBT001
    sections = [HEAD, *(BACKENDS[name] for name in names)]
    before = "".join(sections)
    new = plain("new")
    after = new + before if is_first else "".join([*sections[: place + 1], new, *sections[place + 1 :]])

    assert difference(before, after) == Difference((PlainBackend("new", "apps", ("srv1", "srv2"), "check"),))
    assert difference(after, before) == Difference(gone=(PlainBackend("new", "apps", ("srv1", "srv2"), "check"),))


def test_a_new_backend_is_given_with_its_slots_but_not_with_servers_that_stand_for_one_instance() -> None:
    dynamic = '\n    server dyn-new-1-0000001 10.0.0.1:80 id 1 weight 5 check  # node "n" service id "new-1"'
    text = plain("new").replace("\n    server srv2", f"{dynamic}\n    server srv2")
    found = difference(HEAD, HEAD + text)

    assert found == Difference((PlainBackend("new", "apps", ("srv1", "srv2"), "check"),))
    assert found.new[0].slots == ("srv1", "srv2")


@pytest.mark.parametrize(
    ("has", "needs"),
    [
        (plain("a"), plain("a", slots=9)),
        (plain("a"), plain("a").replace("127.0.0.1:1 weight 1 check disabled", "10.0.0.1:80 weight 7 check")),
        (plain("a"), plain("a").replace("# one of many", "# a word\n\n")),
        (plain("a"), plain("a").replace("    server", "  \t server")),
        ("", "# nothing else\n"),
        ("log-format a\\ #b\n", "log-format a\\  # c\n"),
        ('log-format "a b"\n', "log-format a\\ b\n"),
        ("log-format $HOST\n", "log-format  $HOST # of the host\n"),
        ("log-format '$HOST'\n", "    log-format '$HOST'\n"),
    ],
)
def test_what_changes_with_the_live_state_and_comments_are_no_difference(has: str, needs: str) -> None:
    assert difference(HEAD + has, HEAD + needs) == Difference()


@pytest.mark.parametrize(
    ("has", "needs"),
    [
        pytest.param("", plain("a") + "    balance source\n", id="a line"),
        pytest.param("", plain("a").replace(" from apps", ""), id="unnamed defaults"),
        pytest.param("", plain("a").replace(" from apps", " from more"), id="default-server"),
        pytest.param("", plain("a").replace("backend a", "listen a"), id="listen"),
        pytest.param("", "backend a from apps\n    server mine 10.0.0.1:80\n", id="foreign"),
        pytest.param("", "backend a from apps\n", id="no server"),
        pytest.param(plain("a"), plain("a", options="check inter 1s"), id="options"),
        pytest.param(plain("a"), plain("a").replace(" from apps", " from more"), id="other defaults"),
        pytest.param("frontend x from apps\n    bind :81\n", "frontend x from apps\n    bind :82\n", id="a bind"),
        pytest.param('log-format "a  b"\n', 'log-format "a b"\n', id="blanks in quotes"),
        pytest.param("log-format a\\#b\n", "log-format a\\#c\n", id="a # after a backslash"),
        pytest.param('log-format "a # b"\n', 'log-format "a # c"\n', id="a # in quotes"),
        pytest.param("log-format '$HOST'\n", 'log-format "$HOST"\n', id="a variable where a plain $ was"),
        pytest.param('log-format "\\$HOST"\n', 'log-format "$HOST"\n', id="a variable where an escaped $ was"),
        pytest.param("log-format '$HOST'\n", "log-format $HOST\n", id="a variable where a quoted $ was"),
        pytest.param('log-format "$HOST"\n', "log-format $HOST\n", id="a variable that may become several words"),
        pytest.param("backend '$HOST'\n", 'backend "$HOST"\n', id="a variable in a name"),
        pytest.param(plain("a") + plain("a"), plain("a"), id="twice"),
    ],
)
def test_anything_else_needs_a_reload(has: str, needs: str) -> None:
    assert difference(HEAD + has, HEAD + needs) is None
    assert difference(HEAD + needs, HEAD + has) is None


def test_options_of_a_backend_that_is_not_plain_count_too() -> None:
    has = plain("a").replace("\n    server srv1", "\n    balance source\n    server srv1")

    assert difference(HEAD + has, HEAD + has.replace("weight 1 check", "weight 1 check inter 1s")) is None
    assert difference(HEAD + has, HEAD + has.replace("weight 1 check disabled", "weight 9 check")) == Difference()
