"""Settings are tried within seconds, whoever does not answer: nothing else is done meanwhile."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from hapsync.agent import reachable
from hapsync.agent.reachable import tried
from hapsync.agent.settings import Settings
from hapsync.config.schema import BackendConfig, Config, ConsulConfig, HAProxyConfig, Template
from hapsync.errors import ConfigError
from tests.edge.fake_consul import View, fake_consul

FOREVER = 600.0
BOUND_SECONDS = 10.0
"""What is late in these tests ends by itself after this long, so that a trial without a limit ends as well."""


def settings(work: Path) -> Settings:
    haproxy = HAProxyConfig(
        socket=str(work / "admin.sock"),
        config=str(work / "haproxy.cfg"),
        template=str(work / "haproxy.cfg.j2"),
        timeout_seconds=FOREVER,
    )
    consul = ConsulConfig(address="http://127.0.0.1:1", timeout_seconds=FOREVER)
    text = f'global\n    stats socket {work}/admin.sock\nbackend web\n    {{{{ servers("web") }}}}\n'
    config = Config(consul=consul, haproxy=haproxy, backends={"web": BackendConfig(service="web")})
    return Settings(config, Template("haproxy.cfg.j2", text))


def at_consul(one: Settings, address: str) -> Settings:
    consul = attrs.evolve(one.config.consul, address=address)
    return attrs.evolve(one, config=attrs.evolve(one.config, consul=consul))


@contextmanager
def silent(path: Path) -> Iterator[threading.Event]:
    """A socket that takes connections and says nothing; what is given is set once it gave up."""
    gave_up, is_over = threading.Event(), threading.Event()

    def wait() -> None:
        if not is_over.wait(BOUND_SECONDS):
            gave_up.set()
        listener.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        waiting = threading.Thread(target=wait)
        waiting.start()
        try:
            yield gave_up
        finally:
            is_over.set()
            waiting.join()


def test_a_name_that_is_not_resolved_keeps_a_trial_for_its_time_only(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_up, is_over = threading.Event(), threading.Event()

    def never(*_: object, **__: object) -> list[object]:
        if not is_over.wait(BOUND_SECONDS):
            gave_up.set()
        raise OSError("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(reachable, "CONSUL_SECONDS", 0.2)
    running = settings(work)
    with pytest.raises(ConfigError, match=r"consul: Consul at http://nowhere:8500: no whole answer within 0\.2 s"):
        tried(at_consul(running, "http://nowhere:8500"), running, ["web"])
    assert not gave_up.is_set()
    is_over.set()


@pytest.mark.parametrize("key", ["socket", "master_socket"])
def test_an_haproxy_that_says_nothing_keeps_a_trial_for_its_time_only(
    work: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(reachable, "HAPROXY_SECONDS", 0.2)
    running = settings(work)
    path = work / "other.sock"
    changes: dict[str, Any] = {key: str(path)}
    haproxy = attrs.evolve(running.config.haproxy, **changes)
    wanted = attrs.evolve(running, config=attrs.evolve(running.config, haproxy=haproxy))
    with silent(path) as gave_up:
        with pytest.raises(ConfigError, match=f"haproxy.{key}"):
            tried(wanted, running, ["web"])
        assert not gave_up.is_set()


def test_of_a_service_with_thousands_of_instances_a_trial_reads_no_more_than_shows_that_there_are_some(
    work: Path,
) -> None:
    with fake_consul() as fake:
        fake.views["default"] = View(body=b'"10.0.0.1:8300"')  # who leads Consul's servers
        fake.show(only="stale", body=b"[" + b" " * 9 * 2**20)  # no JSON, were it read to its end
        running = settings(work)
        wanted = at_consul(running, fake.url)
        assert tried(wanted, running, ["web"]) == wanted

        fake.show(only="stale", body=b"[]")
        with pytest.raises(ConfigError, match='shows no instance of service "web"'):
            tried(wanted, running, ["web"])


def test_a_defect_in_a_trial_is_told_as_one(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise KeyError("wrong")

    monkeypatch.setattr(reachable, "ConsulClient", wrong)
    running = settings(work)
    with pytest.raises(KeyError):
        tried(at_consul(running, "http://127.0.0.1:2"), running, ["web"])
