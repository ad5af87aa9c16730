"""What is made of the requests that were sent and the changes that were seen."""

import time
from pathlib import Path

import pytest

from tests.harness.consul import Consul
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.origins import Origins
from tests.harness.ports import free_port
from tests.lab.account import Account, AccountError
from tests.lab.cell import Delays
from tests.lab.client import Request, Sent
from tests.lab.fleet import PORT, Fleet
from tests.lab.watching import Change, Watch


def account(sent: Sent, away_from: float = 1e9) -> Account:
    return Account.of(sent, lambda name, when: name == "gone:80" and when > away_from)


def test_a_request_is_late_when_it_began_after_its_server_had_left() -> None:
    requests = [
        Request(4.9, 0.2, "answered", "gone:80"),
        Request(5.1, 0.1, "answered", "gone:80"),
        Request(5.1, 0.1, "answered", "there:80"),
        Request(5.1, 0.3, "cut", ""),
    ]
    one = account(Sent(4, requests, 0), away_from=5.0)

    assert one.late == 1
    assert (one.requests, one.kinds["answered"], one.kinds["cut"]) == (4, 3, 1)
    assert (one.failed, one.failures) == (1, {"cut": 1})
    assert (one.p50_ms, one.p99_ms, one.p999_ms) == (100, 200, 200)


def test_an_account_that_misses_a_request_is_no_account() -> None:
    with pytest.raises(AccountError, match="2 requests were begun, and 1 are accounted for"):
        account(Sent(2, [Request(0, 0.1, "answered", "a:1")], 0))


def test_changes_that_never_came_about_are_counted_and_lengthen_no_median() -> None:
    changes = [Change("a", True, 1.0, 1.5), Change("b", True, 1.0), Change("b", False, 2.0, 2.25)]

    assert Delays.of(changes) == Delays((0.5, 0.25), 1)


def test_a_change_is_done_when_haproxy_has_it_and_overtaken_by_the_next_of_its_server(work: Path) -> None:
    config = minimal_config(
        work / "admin.sock", free_port(), {"web": ["server a 127.0.0.1:1 disabled", "server b 127.0.0.1:2"]}
    )
    (work / "haproxy.cfg").write_text(config)
    with HAProxy(work / "haproxy.cfg", work) as haproxy, Watch(haproxy, lambda: frozenset({1, 2})) as watch:
        watch.wait_serving(1, 5)
        watch.expect("127.0.0.1:1", is_live=True, begun=time.monotonic())
        assert not watch.settle(0.3)
        haproxy.ask("set server web/a state ready")
        assert watch.settle(5)
        watch.expect("127.0.0.1:1", is_live=False, begun=time.monotonic())
        watch.expect("127.0.0.1:1", is_live=True, begun=time.monotonic())
        assert watch.settle(5)

    first, overtaken, last = watch.changes
    assert first.done is not None
    assert 0.3 < first.done - first.begun < 2
    assert (overtaken.done, overtaken.is_overtaken) == (None, True)
    assert last.done is not None
    assert watch.peak == len(watch.seen) == 2


def test_an_instance_is_away_from_when_consul_is_told_until_it_is_told_otherwise(work: Path) -> None:
    with Consul(work) as consul, Origins(work) as origins, Fleet(consul, origins, ["127.0.0.9"], 1) as fleet:
        host = fleet.add()
        name = f"{host}:{PORT}"
        moments = [time.monotonic()]
        for act in (fleet.fail, fleet.recover, fleet.leave):
            act(host)
            moments.append(time.monotonic())
        left = [fleet.is_away(name, moment) for moment in moments]
        entries = consul.health("web")

    assert left == [False, True, False, True]
    assert fleet.is_away(name, moments[-1] + 3600)
    assert entries == []
