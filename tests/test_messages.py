"""Requests and replies come back as they were; whatever else comes is refused with a reason, and raises nothing."""

import json

import pytest
from hypothesis import given, strategies as st

from hapsync.api.client import claimed_user
from hapsync.api.messages import (
    MAX_REASON,
    MAX_REQUEST_BYTES,
    MAX_SECONDS,
    Apply,
    BadRequest,
    FreezeAll,
    OverrideServer,
    ReleaseBackend,
    ReleaseServer,
    Reply,
    Request,
    Target,
    Thaw,
    duration_words,
    parse_duration,
    parse_reason,
    parse_server,
    parse_target,
    reply_from_json,
    reply_to_json,
    request_from_json,
    request_to_json,
)
from hapsync.model.server import AdminState

names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
servers = st.from_regex(r"srv[1-9][0-9]{0,3}", fullmatch=True) | st.sampled_from(
    ["10.0.0.5:80", "[2001:db8::1]:8080", "web_1.example-2"]
)
seconds = st.none() | st.integers(1, MAX_SECONDS)
reasons = st.text(max_size=MAX_REASON).filter(lambda text: text.isprintable() and text == text.strip(" "))
claims = st.sampled_from(["", "alice", "a.b-c_d@example$"])
deadlines = st.none() | st.floats(0, 1e12)
asked = {"who": claims, "deadline": deadlines}
requests = st.one_of(
    st.builds(Apply, st.booleans(), **asked),
    st.builds(
        OverrideServer,
        names,
        servers,
        st.sampled_from([AdminState.MAINT, AdminState.DRAIN]),
        seconds,
        reasons,
        **asked,
    ),
    st.builds(ReleaseServer, names, servers, **asked),
    st.builds(ReleaseBackend, names, **asked),
    st.builds(FreezeAll, seconds, reasons, **asked),
    st.builds(Thaw, st.booleans(), **asked),
)
json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HOLD = OverrideServer("web", "srv1", AdminState.MAINT, 60, "why", who="alice")
FIELDS = ["ask", "backend", "server", "admin", "for_seconds", "reason", "who", "force", "deadline", "more"]


# -- over the socket ----------------------------------------------------------------------------------------------


@given(requests)
def test_a_request_comes_back_as_it_was(request: Request) -> None:
    text = request_to_json(request)

    assert request_from_json(text) == request
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < MAX_REQUEST_BYTES


def test_the_longest_request_fits_by_far() -> None:
    longest = OverrideServer(
        "b" * 128, "s" * 128, AdminState.DRAIN, MAX_SECONDS, "\U0001f600" * MAX_REASON, who="w" * 32
    )

    assert request_from_json(request_to_json(longest)) == longest
    assert len(request_to_json(longest)) < MAX_REQUEST_BYTES / 10


@given(st.text() | json_trees.map(json.dumps))
def test_a_text_from_anywhere_is_a_bad_request_and_raises_nothing(text: str) -> None:
    found = request_from_json(text)

    assert isinstance(found, BadRequest)
    assert found.why.isascii()
    assert found.why.isprintable()
    assert reply_from_json(text) is None


@given(requests, st.sampled_from(FIELDS), json_trees)
def test_a_field_from_anywhere_raises_nothing_and_never_widens_what_is_allowed(
    request: Request, field: str, value: object
) -> None:
    found = request_from_json(json.dumps({**json.loads(request_to_json(request)), field: value}))

    if isinstance(found, BadRequest):
        assert found.why.isascii()
        assert found.why.isprintable()
    else:
        assert request_from_json(request_to_json(found)) == found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ask": "shell"}, "`ask` must be one of"),
        ({"ask": None}, "`ask` must be one of"),
        ({"ask": ["hold"]}, "`ask` must be one of"),
        ({"more": 1}, 'unknown field "more"'),
        ({"force": True}, 'unknown field "force"'),
        ({"backend": "web;show"}, "backend: must be"),
        ({"backend": "web\n"}, "backend: must be"),
        ({"backend": ""}, "backend: must be"),
        ({"backend": "w" * 129}, "backend: must be"),
        ({"backend": "wéb"}, "backend: must be"),
        ({"backend": 5}, "backend: must be"),
        ({"server": "srv1 x"}, "is no server"),
        ({"server": "srv1\n"}, "is no server"),
        ({"server": "x @ $.y"}, 'server: "x @ $.y" is no server'),
        ({"server": "s" * 129}, "server: must be"),
        ({"server": None}, "server: must be"),
        ({"server": "fe80::1"}, "has no port"),
        ({"admin": "ready"}, "admin: must be"),
        ({"admin": ["maint"]}, "admin: must be"),
        ({"for_seconds": 0}, "for_seconds: must be"),
        ({"for_seconds": MAX_SECONDS + 1}, "for_seconds: must be"),
        ({"for_seconds": 1.5}, "for_seconds: must be"),
        ({"for_seconds": True}, "for_seconds: must be"),
        ({"for_seconds": "60"}, "for_seconds: must be"),
        ({"reason": "a\nb"}, "reason: the reason must be one line"),
        ({"reason": "\x1b[31m"}, "reason: the reason must be one line"),
        ({"reason": "\u2028"}, "reason: the reason must be one line"),
        ({"reason": "\u202e"}, "reason: the reason must be one line"),
        ({"reason": "\ud800"}, "reason: the reason must be one line"),
        ({"reason": "x" * (MAX_REASON + 1)}, "write at most 200"),
        ({"reason": None}, "reason: must be a text"),
        ({"who": "alice (root)"}, "who: must be"),
        ({"who": "a\nb"}, "who: must be"),
        ({"who": "a" * 33}, "who: must be"),
        ({"who": 0}, "who: must be"),
        ({"deadline": -1}, "deadline: must be"),
        ({"deadline": True}, "deadline: must be"),
        ({"deadline": "5"}, "deadline: must be"),
        ({"deadline": 10**400}, "deadline: must be"),
        ({"deadline": float("inf")}, "deadline: must be"),
        ({"deadline": float("nan")}, "deadline: must be"),
    ],
)
def test_what_is_not_allowed_is_refused_and_says_why(change: dict[str, object], why: str) -> None:
    tree = {**json.loads(request_to_json(HOLD)), **change}

    found = request_from_json(json.dumps(tree))

    assert isinstance(found, BadRequest)
    assert why in found.why


def test_a_field_that_is_needed_and_missing_is_named() -> None:
    for field in ("backend", "server", "admin"):
        tree = json.loads(request_to_json(HOLD))
        del tree[field]
        assert request_from_json(json.dumps(tree)) == BadRequest(f"{field}: is missing")
    assert request_from_json('{"ask": "freeze"}') == FreezeAll()


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = request_from_json('{"ask": "hold", "backend": 5, "server": "", "for_seconds": 0}')

    assert isinstance(found, BadRequest)
    assert sorted(problem.partition(":")[0] for problem in found.why.split("; ") if ": " in problem) == [
        "admin",
        "backend",
        "for_seconds",
        "server",
    ]


@pytest.mark.parametrize("text", ["[" * 60_000, '{"ask":' * 9000, "1" * 60_000, '{"ask": "apply", "force": NaN}'])
def test_json_made_to_hurt_the_parser_is_a_bad_request(text: str) -> None:
    assert isinstance(request_from_json(text), BadRequest)
    assert reply_from_json(text) is None


@given(st.builds(Reply, st.booleans(), st.integers(0, 255), st.lists(st.text(max_size=20)).map(tuple)))
def test_a_reply_comes_back_as_it_was_on_one_line_of_ascii(reply: Reply) -> None:
    text = reply_to_json(reply)

    assert reply_from_json(text) == reply
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize(
    "change", [{"is_ok": 1}, {"exit_code": True}, {"exit_code": 256}, {"lines": "a"}, {"lines": [1]}]
)
def test_what_is_no_reply_gives_nothing(change: dict[str, object]) -> None:
    assert reply_from_json(json.dumps({**json.loads(reply_to_json(Reply.done("x"))), **change})) is None


def test_replies_carry_the_exit_codes_of_the_manual() -> None:
    found = [Reply.done("a"), Reply.not_done("a"), Reply.cannot_tell("a"), Reply.wrong("a")]

    assert [(one.is_ok, one.exit_code) for one in found] == [(True, 0), (False, 2), (False, 1), (False, 64)]


# -- what people write --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1s", 1), ("90s", 90), ("30m", 1800), ("1h", 3600), ("2d", 172800), ("31d", MAX_SECONDS), ("007m", 420)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("45", "say the unit: 45s, 45m, 45h or 45d"),
        ("0s", "must be from 1s to 31d"),
        ("32d", "must be from 1s to 31d"),
        ("999999999d", "must be from 1s to 31d"),
        ("", "is no duration; write 90s"),
        ("m", "is no duration"),
        ("-1h", "is no duration"),
        ("1.5h", "is no duration"),
        ("1h30m", "is no duration"),
        ("1 h", "is no duration"),
        ("1H", "is no duration"),
        ("1h\n", "is no duration"),
        ("\u0661h", "is no duration"),
        ("9" * 5000 + "d", "is no duration"),
        ("\x1b[31m", "\\u001b"),
    ],
)
def test_what_is_no_duration_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"write|say|must be") as caught:
        parse_duration(text)

    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, "0 s"),
        (1, "1 s"),
        (90, "90 s"),
        (60, "1 min"),
        (5400, "90 min"),
        (3600, "1 h"),
        (172800, "2 d"),
        (59.6, "1 min"),
    ],
)
def test_seconds_are_said_in_the_largest_unit_that_is_exact(amount: float, expected: str) -> None:
    assert duration_words(amount) == expected


@given(st.integers(1, MAX_SECONDS))
def test_a_duration_in_words_is_the_same_duration(amount: int) -> None:
    assert parse_duration(duration_words(amount).replace(" ", "").replace("min", "m")) == amount


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", Target("web", None)),
        ("web/srv3", Target("web", "srv3")),
        ("web/10.0.0.5:80", Target("web", "10.0.0.5:80")),
        ("web/[2001:DB8::0:1]:80", Target("web", "[2001:db8::1]:80")),
        ("web/[::ffff:10.0.0.5]:80", Target("web", "10.0.0.5:80")),
        ("a.b-c_d:e/x:y", Target("a.b-c_d:e", "x:y")),
        ("web/10.0.0.5", Target("web", "10.0.0.5")),
    ],
)
def test_a_server_is_named_as_haproxy_names_it_or_by_its_address(text: str, expected: Target) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no backend's name; write BACKEND/SERVER"),
        ("/srv1", "is no backend's name"),
        ("we b/srv1", "is no backend's name"),
        ("web/", "is no server; write HAProxy's name"),
        ("web/srv1/x", "is no server"),
        ("web/srv1;x", "is no server"),
        ("web/srv1\n", "is no server"),
        ("web/[::1]", "is no server"),
        ("web/[::1]:0", "is no server"),
        ("web/[::1]:65536", "is no server"),
        ("web/[10.0.0.5]:80", "is no server"),
        ("web/2001:db8::1", "write [2001:db8::1]:80"),
        ("web/" + "s" * 129, "is no server"),
        ("\x1b[31m", "\\u001b"),
    ],
)
def test_what_names_no_server_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="write") as caught:
        parse_target(text)

    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_address_has_one_spelling_and_a_name_stays_as_it_is() -> None:
    assert parse_server("10.0.0.5:80") == "10.0.0.5:80"
    assert parse_server("[2001:DB8::0:1]:80") == "[2001:db8::1]:80"
    for name in ("srv1", "10.0.0.5", "10.0.0.5:", "10.0.0.5:080", "host.example:80"):
        assert parse_server(name) == name
    for bad in ("2001:db8::1", ""):
        with pytest.raises(ValueError, match="write"):
            parse_server(bad)


def test_a_reason_is_one_printable_line() -> None:
    assert parse_reason("  disk is failing, f\u00fcr Stunden ") == "disk is failing, f\u00fcr Stunden"
    assert parse_reason("") == ""
    assert parse_reason("x" * MAX_REASON) == "x" * MAX_REASON
    for bad in ("a\nb", "a\tb", "\x00", "\x1b", "\u2028", "x" * (MAX_REASON + 1)):
        with pytest.raises(ValueError, match="the reason"):
            parse_reason(bad)


def test_a_claim_that_is_no_users_name_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, claimed in (
        ("alice", "alice"),
        *((bad, "") for bad in ("", "a b", "a\n", "(root)", "a" * 33, "\u00e9")),
    ):
        monkeypatch.setenv("SUDO_USER", name)
        assert claimed_user() == claimed
