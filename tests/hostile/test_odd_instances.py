"""Every odd instance that docs/configuration.md names has the outcome that it says."""

import json
from ipaddress import ip_network
from typing import Any

import pytest

from hapsync.config.schema import BackendConfig, Config
from hapsync.consul.health import parse_reading
from hapsync.model.catalog import Catalog
from hapsync.model.server import AdminState
from hapsync.plan.desired import DesiredBackend, desired
from hapsync.text import shown
from tests.harness.tools import ROOT
from tests.hostile.whole_path import WholePath

DOCUMENTED = (ROOT / "docs" / "configuration.md").read_text().partition("## What becomes of odd instances")[2]


def entry(
    number: int = 1, *, status: str = "passing", node_address: str = "10.7.7.7", **service: Any
) -> dict[str, Any]:
    record = {
        "ID": f"web-{number}",
        "Address": f"10.0.0.{number}",
        "Port": 80,
        "Tags": [],
        "Weights": None,
        **service,
    }
    return {
        "Node": {"Node": f"n{number}", "Address": node_address},
        "Service": record,
        "Checks": [{"CheckID": "c", "Status": status}],
    }


def wanted(*entries: dict[str, Any], networks: tuple[str, ...] = (), max_servers: int = 1000) -> DesiredBackend:
    config = Config(
        backends={
            "web": BackendConfig(
                service="web", networks=tuple(map(ip_network, networks)), max_servers=max_servers, min_ready=0
            )
        }
    )
    return desired(Catalog({"web": parse_reading("web", json.dumps(entries).encode())}), config).backends["web"]


def served(backend: DesiredBackend) -> dict[str, str]:
    return {server.instance_id: str(server.address) for server in backend.servers}


def left_out(backend: DesiredBackend) -> dict[str, str]:
    return {one.instance_id: one.reason for one in backend.quarantined}


def is_documented(words: str) -> bool:
    return words in DOCUMENTED


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("web.example.com", "is not an IP address"),
        ("localhost", "is not an IP address"),
        ("10.0.0.1; quit", "is not an IP address"),
        ("fe80::1%eth0", "is not an IP address"),
        ("2001:db8::1%2", "is not an IP address"),
        ("010.0.0.1", "is not an IP address"),
        ("127.1", "is not an IP address"),
        ("0.0.0.0", "is unspecified, multicast or link-local"),
        ("::", "is unspecified, multicast or link-local"),
        ("224.0.0.1", "is unspecified, multicast or link-local"),
        ("ff02::1", "is unspecified, multicast or link-local"),
        ("169.254.169.254", "is unspecified, multicast or link-local"),
        ("fe80::1", "is unspecified, multicast or link-local"),
        ("::ffff:169.254.1.1", "is unspecified, multicast or link-local"),
    ],
)
@pytest.mark.parametrize("networks", [(), ("0.0.0.0/0", "::/0")])
def test_an_address_that_may_be_no_server_is_left_out_whatever_networks_says(
    address: str, reason: str, networks: tuple[str, ...]
) -> None:
    found = wanted(entry(1), entry(2, Address=address), networks=networks)

    assert served(found) == {"web-1": "10.0.0.1:80"}
    assert reason in left_out(found)["web-2"]


@pytest.mark.parametrize(
    ("address", "networks", "becomes"),
    [
        ("::ffff:10.0.0.9", (), "10.0.0.9:80"),
        ("::ffff:10.0.0.9", ("10.0.0.0/8",), "10.0.0.9:80"),
        ("127.0.0.1", (), "127.0.0.1:80"),
        ("::1", (), "[::1]:80"),
        ("127.0.0.1", ("0.0.0.0/0",), "127.0.0.1:80"),
        ("2001:DB8:0::1", ("::/0",), "[2001:db8::1]:80"),
        ("", (), "10.7.7.7:80"),
    ],
)
def test_an_odd_address_that_is_one_is_served(address: str, networks: tuple[str, ...], becomes: str) -> None:
    assert served(wanted(entry(1, Address=address), networks=networks)) == {"web-1": becomes}


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("127.0.0.1", ("10.0.0.0/8",)),
        ("10.9.9.9", ("10.0.0.0/24",)),
        ("::1", ("0.0.0.0/0",)),
        ("10.0.0.1", ("::/0",)),
    ],
)
def test_an_address_outside_networks_is_left_out(address: str, networks: tuple[str, ...]) -> None:
    found = wanted(entry(1, Address=address), networks=networks)

    assert served(found) == {}
    assert left_out(found) == {"web-1": f"its address {address} is outside networks"}


@pytest.mark.parametrize("port", [0, -1, 65536, "80", None, True, 80.5])
def test_an_odd_port_is_left_out(port: object) -> None:
    found = wanted(entry(1), entry(2, Port=port))

    assert served(found) == {"web-1": "10.0.0.1:80"}
    assert left_out(found)["web-2"] in {"it has no port", f'its port "{port}" is not from 1 to 65535'}


def test_the_healthiest_of_two_on_one_address_serves() -> None:
    found = wanted(entry(1, status="critical"), entry(2, Address="10.0.0.1"), entry(3, Address="10.0.0.1"))

    assert served(found) == {"web-2": "10.0.0.1:80"}
    assert set(left_out(found)) == {"web-1", "web-3"}


def test_five_thousand_instances_are_cut_to_max_servers() -> None:
    many = [entry(1, ID=f"web-{n:04}", Address=f"10.1.{n >> 8}.{n & 255}") for n in range(5000)]
    found = wanted(*many, max_servers=1000)

    assert len(found.servers) == 1000
    assert len(found.quarantined) == 4000
    assert set(left_out(found).values()) == {"the service has more than max_servers 1000"}


@pytest.mark.parametrize(
    ("status", "weights", "weight"),
    [
        ("warning", {"Passing": 10, "Warning": 0}, 0),
        ("passing", {"Passing": 0, "Warning": 1}, 0),
        ("passing", {"Passing": 65535, "Warning": 1}, 256),
        ("passing", {"Passing": 257, "Warning": 1}, 256),
        ("passing", {"Passing": 256, "Warning": 1}, 256),
    ],
)
def test_an_odd_weight_is_haproxys_as_far_as_it_goes(status: str, weights: dict[str, int], weight: int) -> None:
    (server,) = wanted(entry(1, status=status, Weights=weights)).servers

    assert (server.admin, server.weight) == (AdminState.READY, weight)


def test_beside_a_weight_of_65535_another_above_zero_stays_above_zero() -> None:
    found = wanted(*(entry(n, Weights={"Passing": w, "Warning": 1}) for n, w in ((1, 65535), (2, 1), (3, 0))))

    assert [server.weight for server in found.servers] == [256, 1, 0]


@pytest.mark.parametrize("weight", [-1, 65536, 1.5, "1", None, True])
def test_a_weight_that_is_none_is_left_out(weight: object) -> None:
    assert "is not from 0 to 65535" in left_out(wanted(entry(1, Weights={"Passing": weight, "Warning": 1})))["web-1"]


@pytest.mark.parametrize(
    "name", ["i" * 300, "\x1b[2J" * 100, "\u2028" * 300, "", "\U0001f642" * 300, "\ud800"], ids=ascii
)
def test_any_id_is_served_and_shown_within_bounds(name: str) -> None:
    (server,) = wanted(entry(1, ID=name)).servers

    assert server.instance_id == name
    assert len(shown(name)) <= 256
    assert shown(name).isascii()
    assert shown(name).isprintable() or not name


def test_a_status_that_is_none_is_critical_and_no_checks_pass() -> None:
    assert [one.admin for one in wanted(entry(1, status="\n")).servers] == [AdminState.MAINT]
    assert [one.admin for one in wanted({**entry(1), "Checks": []}).servers] == [AdminState.READY]


@pytest.mark.parametrize("key", ["ID", "Port"])
def test_an_entry_that_lacks_what_every_one_has_is_left_out(key: str) -> None:
    broken = entry(1)
    del broken["Service"][key]

    assert served(wanted(entry(2), broken)) == {"web-2": "10.0.0.2:80"}


@pytest.mark.parametrize(
    "words",
    [
        *(
            "no IP literal (a host name",
            "with a zone",
            "written as IPv6",
            "multicast or link-local",
            "a loopback address",
        ),
        *("outside `networks`", "port 0", "127.0.0.1:1", "two instances on one address", "more than `max_servers`"),
        *("a weight of 0", "a weight above 256", "any id, any node name, of any length", "no checks at all"),
        *("not JSON", "none of Consul's words"),
    ],
)
def test_what_is_tested_here_is_documented(words: str) -> None:
    assert is_documented(words)


def test_thousands_left_out_do_not_bury_the_rest_of_status(capsys: pytest.CaptureFixture[str]) -> None:
    path = WholePath()
    odd = [entry(n % 250, ID=f"web-{n}", Address="x", Tags=["wanted"]) for n in range(5000)]
    path.walk(json.dumps([entry(251, Tags=["wanted"]), *odd]).encode())
    path.show()
    lines = capsys.readouterr().out.splitlines()

    assert len([line for line in lines if line.startswith("  quarantined ")]) == 21
    assert lines[-1] == "  quarantined 4980 more; --json has them all"
