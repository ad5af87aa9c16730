"""An account says of long connections what a count of requests would not."""

import json

import cattrs

from tests.lab.account import Account, accounts
from tests.lab.client import KINDS, Request, Sent, Summed


def account(*requests: Request) -> Account:
    return Account.of(Sent(len(requests), requests, 1, 7.5), lambda name, when: name == "gone:80" and when > 5)


def test_a_message_is_late_only_when_its_connection_was_made_after_its_server_had_left() -> None:
    one = account(
        Request(6, 0.1, "answered", "gone:80"),
        Request(6, 0.1, "answered", "gone:80", connected=4.9),
        Request(6, 0.1, "answered", "gone:80", connected=5.1),
        Request(4, 0.1, "answered", "gone:80"),
    )

    assert one.late == 2
    assert (one.longest_seconds, one.closed_idle) == (7.5, 1)


def test_what_the_client_ended_is_no_failure_and_those_that_failed_have_the_median_of_how_far_they_came() -> None:
    one = account(
        Request(1, 4, "answered", "a:80", bytes=100, of_bytes=100),
        Request(1, 1, "ended", "", bytes=90, of_bytes=100),
        Request(1, 1, "cut", "", bytes=20, of_bytes=100),
        Request(1, 1, "reset", "", bytes=50, of_bytes=100),
        Request(1, 1, "refused", "", bytes=0, of_bytes=100),
    )

    assert one.failures == {"refused": 1, "reset": 1, "cut": 1}
    assert (one.requests, one.failed, one.kinds["ended"]) == (5, 3, 1)
    assert one.lost_at_fraction == 0.2
    assert one.bytes == 260


def test_what_a_tool_told_in_sums_is_an_account_as_well_and_both_survive_their_line() -> None:
    kinds = {**dict.fromkeys(KINDS, 0), "answered": 8, "cut": 2}
    told = accounts(
        {"wrk": Summed(kinds, 1, 2, 3), "new": Sent(1, [Request(0, 0.5, "answered", "a:80")], 0)},
        lambda _name, _when: False,
    )

    assert (told["wrk"].requests, told["wrk"].failed, told["wrk"].p999_ms) == (10, 2, 3)
    assert told["new"].p50_ms == 500
    for one in (*told.values(), account(Request(1, 1, "cut", "", bytes=20, of_bytes=100))):
        assert cattrs.structure(json.loads(json.dumps(cattrs.unstructure(one))), Account) == one
