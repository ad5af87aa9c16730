"""What is made of the requests that were sent and the changes that were seen."""

import socket
import time
from pathlib import Path

import pytest

from tests.harness.consul import Consul
from tests.harness.haproxy import HAProxy, minimal_config
from tests.harness.origins import Origins
from tests.harness.ports import free_port
from tests.harness.processes import wait_until
from tests.lab.account import Account, AccountError
from tests.lab.cell import Delays
from tests.lab.client import Request, Sent
from tests.lab.events import Killed, Outage
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


def test_a_change_is_done_when_haproxy_has_it_or_overtaken_by_the_next_and_one_that_is_so_is_none(work: Path) -> None:
    config = minimal_config(
        work / "admin.sock", free_port(), {"web": ["server a 127.0.0.1:1 disabled", "server b 127.0.0.1:2"]}
    )
    (work / "haproxy.cfg").write_text(config)
    with HAProxy(work / "haproxy.cfg", work) as haproxy, Watch(haproxy, "web") as watch:
        watch.wait_serving(1, 5)
        watch.expect("127.0.0.1:1", is_live=True)
        assert not watch.settle(0.3)
        haproxy.ask("set server web/a state ready")
        assert watch.settle(5)
        watch.expect("127.0.0.1:1", is_live=False)
        watch.expect("127.0.0.1:1", is_live=True)
        assert watch.settle(5)
        watch.stop()

    first, overtaken = watch.changes
    assert first.done is not None
    assert 0.3 < first.done - first.begun < 2
    assert overtaken.done is None


def test_the_worker_that_serves_is_looked_at_while_an_old_one_goes_on(work: Path) -> None:
    config, port = work / "haproxy.cfg", free_port()
    config.write_text(minimal_config(work / "admin.sock", port, {"web": ["server a 127.0.0.1:1"]}))
    with HAProxy(config, work) as haproxy, Watch(haproxy, "web") as watch:
        watch.wait_serving(1, 5)
        old = haproxy.worker_pid()
        with socket.create_connection(("127.0.0.1", port)):  # which keeps the old worker from ending
            config.write_text(minimal_config(work / "admin.sock", port, {"web": ["server b 127.0.0.1:2"]}))
            watch.expect("127.0.0.1:2", is_live=True)
            haproxy.reload()
            assert watch.settle(5)
            assert Path(f"/proc/{old}").exists()
            assert watch.serving == frozenset({"127.0.0.1:2"})


def test_a_haproxy_that_is_gone_is_seen_to_be_and_with_which_servers_it_came_back(work: Path) -> None:
    servers = {"web": ["server a 127.0.0.1:1", "server b 127.0.0.1:2 disabled"]}
    (work / "haproxy.cfg").write_text(minimal_config(work / "admin.sock", free_port(), servers))
    with HAProxy(work / "haproxy.cfg", work) as haproxy, Watch(haproxy, "web") as watch:
        watch.wait_serving(1, 5)
        haproxy.ask("set server web/b state ready")
        watch.wait_serving(2, 5)
        begun = time.monotonic()
        haproxy.kill()
        wait_until(lambda: watch.serving is None, 5, "it to be gone")
        haproxy.start()
        watch.wait_serving(1, 5)
        answered = time.monotonic()
        haproxy.ask("set server web/b state ready")
        watch.wait_serving(2, 5)
        watch.stop()
    both, file = frozenset({"127.0.0.1:1", "127.0.0.1:2"}), frozenset({"127.0.0.1:1"})

    late = Outage.of(Killed(begun, answered), watch.history, both)
    assert not late.is_right_at_once
    assert late.right_seconds is not None
    assert late.right_seconds > 0
    at_once = Outage.of(Killed(begun, answered), watch.history, file)
    assert at_once.is_right_at_once
    assert at_once.right_seconds is not None
    assert at_once.right_seconds < late.right_seconds
    assert Outage.of(Killed(begun, answered), watch.history, frozenset()).right_seconds is None


def test_an_instance_is_away_from_when_consul_is_told_until_it_is_told_otherwise(work: Path) -> None:
    with Consul(work) as consul, Origins(work) as origins, Fleet(consul, origins, ["127.0.0.9"], 1) as fleet:
        [host] = fleet.add()
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
