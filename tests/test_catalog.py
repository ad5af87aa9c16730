"""Consul's answer is read whole, and one bad instance is left out alone."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hapsync.catalog import Instance, Quarantined, Reading, parse_reading
from hapsync.errors import CatalogError
from hapsync.model import Address, CheckStatus

REAL = (Path(__file__).with_name("data") / "health.json").read_text()
"""What Consul 1.8 answers for the service web, with one instance."""

HOSTILE = [
    "10.0.0.2; shutdown sessions server web/srv1",
    "10.0.0.2\nset server web/srv1 state maint",
    "10.0.0.2\r\n",
    "10.0.0.2\0",
    "10.0.0.2 <<",
    "<<",
    "10.0.0.2 port 22",
    " 10.0.0.2",
    "10.0.0.2\\",
    "'10.0.0.2'",
    '"10.0.0.2"',
    "{{ servers('web') }}",
    "{% for x in y %}",
    "`id`",
    "$(id)",
    "\u0661\u0660.0.0.2",
    "\ud800",
    "a" * 300,
    "web.example.com",
    "localhost",
    "/run/app.sock",
    "unix@/run/app.sock",
    "[2001:db8::1]",
    "fe80::1%eth0",
    "2001:db8::1%eth0",
    "10.0.0.2:80",
    "10.0.0.2/32",
    "010.0.0.2",
]


def entry(
    *,
    node: Mapping[str, Any] | None = None,
    checks: Sequence[tuple[str, str]] | None = None,
    **service: Any,
) -> dict[str, Any]:
    """Return the real entry with some of it replaced; `...` takes a field away."""
    made: dict[str, Any] = copy.deepcopy(json.loads(REAL)[0])
    for record, fields in (made["Node"], node or {}), (made["Service"], service):
        record.update(fields)
        for name in [name for name, value in fields.items() if value is ...]:
            del record[name]
    if checks is not None:
        made["Checks"] = [{"CheckID": check, "Status": status} for check, status in checks]
    return made


def read(*entries: object) -> Reading:
    return parse_reading("web", json.dumps(entries).encode())


def only_instance(*entries: object) -> Instance:
    (instance,) = read(*entries).instances
    return instance


def only_reason(*entries: object) -> str:
    reading = read(*entries)
    (left_out,) = reading.quarantined

    assert reading.instances == ()
    assert left_out.reason.isascii()
    assert left_out.reason.isprintable()
    return left_out.reason


def test_an_instance_is_read_from_a_real_answer() -> None:
    expected = Instance(
        "n1",
        "web-1",
        Address("10.0.0.1", 8080),
        CheckStatus.PASSING,
        passing_weight=10,
        warning_weight=2,
        tags=("`c`", "a b", "b"),
    )

    assert Reading("web", (expected,)) == parse_reading("web", REAL.encode())


def test_no_instance_at_all_is_a_whole_answer() -> None:
    assert Reading("web", ()) == parse_reading("web", b"[]")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b"<html>502</html>", "not JSON"),
        (b"[\xff]", "not JSON"),
        (b"[" + b"1" * 5000 + b"]", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "not a list"),
        (b"{}", "not a list"),
        (b'"[]"', "not a list"),
        (b"[null]", "an entry"),
        (b"[[]]", "an entry"),
        (b"[{}]", "an entry"),
        (b"[5]", "an entry"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_an_answer_that_is_not_whole_is_no_reading(body: bytes, says: str) -> None:
    with pytest.raises(CatalogError, match=f'service "web".*{says}'):
        parse_reading("web", body)


@pytest.mark.parametrize(
    "damage",
    [
        {"Node": None},
        {"Node": "n1"},
        {"Node": {}},
        {"Node": {"Node": "n1"}, "Service": {"ID": "i", "Address": "", "Port": 1}},
        {"Node": {"Node": 5, "Address": "10.0.0.1"}},
        {"Service": None},
        {"Service": []},
        {"Service": {"ID": "i", "Address": "10.0.0.1"}},
        {"Service": {"ID": None, "Address": "10.0.0.1", "Port": 1}},
        {"Service": {"ID": ["i"], "Address": "10.0.0.1", "Port": 1}},
        {"Checks": 5},
        {"Checks": [None]},
        {"Checks": ["passing"]},
        {"Checks": [{"Status": "passing"}]},
        {"Checks": [{"CheckID": "c"}]},
        {"Checks": [{"CheckID": "c", "Status": ["passing"]}]},
    ],
    ids=json.dumps,
)
def test_an_entry_that_is_not_whole_spoils_the_answer(damage: Mapping[str, Any]) -> None:
    with pytest.raises(CatalogError, match='service "web"'):
        read(entry(), {**entry(), **damage})


def test_the_name_of_a_service_is_escaped_in_errors() -> None:
    with pytest.raises(CatalogError, match=r'service "a\\n\\u001b"'):
        parse_reading("a\n\x1b", b"")


def test_the_address_of_the_node_stands_in_for_an_empty_one() -> None:
    assert only_instance(entry(Address="", node={"Address": "10.9.9.9"})).address == Address("10.9.9.9", 8080)


def test_addresses_are_read_in_one_spelling() -> None:
    assert only_instance(entry(Address="2001:DB8::0:1")).address == Address("2001:db8::1", 8080)


@pytest.mark.parametrize("address", HOSTILE, ids=ascii)
def test_an_instance_whose_address_is_no_ip_address_is_left_out(address: str) -> None:
    assert "is not an IP address" in only_reason(entry(Address=address))
    assert "is not an IP address" in only_reason(entry(Address="", node={"Address": address}))


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "::", "224.0.0.1", "239.255.255.255", "ff02::1", "169.254.1.1", "fe80::1"],
)
def test_an_instance_whose_address_means_nothing_elsewhere_is_left_out(address: str) -> None:
    assert only_reason(entry(Address=address)) == f"its address {address} is unspecified, multicast or link-local"


@pytest.mark.parametrize("address", ["::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:169.254.1.1"])
def test_an_ipv4_address_written_as_ipv6_is_judged_as_ipv4(address: str) -> None:
    assert "is unspecified, multicast or link-local" in only_reason(entry(Address=address))


@pytest.mark.parametrize("address", [None, 5, True, ["10.0.0.1"], {"a": 1}], ids=json.dumps)
def test_an_instance_whose_address_is_no_text_is_left_out(address: object) -> None:
    assert only_reason(entry(Address=address, node={"Address": address})) == "it has no address"


def test_an_instance_with_no_address_anywhere_is_left_out() -> None:
    assert only_reason(entry(Address="", node={"Address": ""})) == "it has no address"


@pytest.mark.parametrize(
    "port",
    [0, -1, 65536, 99999, 10**30, 80.0, 80.5, True, False, None, "80", "", "80; quit", "80\n", [80], {"port": 80}],
    ids=json.dumps,
)
def test_an_instance_whose_port_is_no_port_is_left_out(port: object) -> None:
    reason = only_reason(entry(Port=port))

    assert reason.startswith('its port "')
    assert reason.endswith('" is not from 1 to 65535')


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_every_tcp_port_is_served(port: int) -> None:
    assert only_instance(entry(Port=port)).address.port == port


def test_the_address_of_free_slots_is_left_out() -> None:
    assert only_reason(entry(Address="127.0.0.1", Port=1)) == "its address 127.0.0.1:1 is where free slots point"


@pytest.mark.parametrize("weight", [-1, 65536, 1.5, True, None, "1", "1; quit", [1]], ids=json.dumps)
@pytest.mark.parametrize("of", ["Passing", "Warning"])
def test_an_instance_whose_weight_is_no_weight_is_left_out(of: str, weight: object) -> None:
    reason = only_reason(entry(Weights={"Passing": 1, "Warning": 1, of: weight}))

    assert reason.startswith('its weight "')
    assert reason.endswith('" is not from 0 to 65535')


@pytest.mark.parametrize("weights", [5, "1", [1, 1], True], ids=json.dumps)
def test_an_instance_whose_weights_are_no_table_is_left_out(weights: object) -> None:
    assert only_reason(entry(Weights=weights)) == "its weights are not a table"


@pytest.mark.parametrize("weights", [..., None, {}], ids=repr)
def test_a_weight_that_is_not_given_is_one(weights: object) -> None:
    instance = only_instance(entry(Weights=weights))

    assert (instance.passing_weight, instance.warning_weight) == (1, 1)


@pytest.mark.parametrize(
    ("checks", "status", "weight"),
    [
        ([], CheckStatus.PASSING, 10),
        ([("a", "passing"), ("b", "passing")], CheckStatus.PASSING, 10),
        ([("a", "passing"), ("b", "warning")], CheckStatus.WARNING, 2),
        ([("a", "warning"), ("b", "critical")], CheckStatus.CRITICAL, 10),
        ([("serfHealth", "critical"), ("b", "passing")], CheckStatus.CRITICAL, 10),
        ([("a", "passing"), ("_node_maintenance", "critical")], CheckStatus.MAINTENANCE, 10),
        ([("_service_maintenance:web-1", "critical"), ("a", "critical")], CheckStatus.MAINTENANCE, 10),
        ([("a", "nonsense")], CheckStatus.CRITICAL, 10),
        ([("a", "")], CheckStatus.CRITICAL, 10),
        ([("maintenance", "critical")], CheckStatus.CRITICAL, 10),
        ([("_service_maintenance", "critical")], CheckStatus.CRITICAL, 10),
    ],
    ids=str,
)
def test_the_worst_check_decides(checks: list[tuple[str, str]], status: CheckStatus, weight: int) -> None:
    instance = only_instance(entry(checks=checks))

    assert (status, weight) == (instance.status, instance.weight)


def test_an_instance_without_checks_passes() -> None:
    assert only_instance({**entry(), "Checks": None}).status is CheckStatus.PASSING


@pytest.mark.parametrize("tags", [..., None, []], ids=repr)
def test_an_instance_without_tags_has_none(tags: object) -> None:
    assert only_instance(entry(Tags=tags)).tags == ()


def test_tags_are_only_compared_so_none_is_a_reason_to_leave_an_instance_out() -> None:
    tags = ["a b", "`c`", "; quit\n", "<<", "{{ x }}", "", "\0", 'traefik.rule=Host("x")', "z" * 300]

    assert tuple(sorted(tags)) == only_instance(entry(Tags=tags)).tags


@pytest.mark.parametrize("tags", [5, True, "ab", {"a": "b"}, [5, None, ["x"]]], ids=json.dumps)
def test_tags_that_are_no_list_of_texts_are_no_tags(tags: object) -> None:
    assert only_instance(entry(Tags=tags)).tags == ()


@pytest.mark.parametrize("name", [*HOSTILE, ""], ids=ascii)
def test_an_odd_node_or_id_is_served_and_kept_raw(name: str) -> None:
    instance = only_instance(entry(ID=name, node={"Node": name}))

    assert (name, name) == (instance.node, instance.instance_id)


def test_one_bad_instance_is_left_out_alone() -> None:
    reading = read(entry(ID="bad\n", Port=0), entry(ID="good"))

    assert [one.instance_id for one in reading.instances] == ["good"]
    assert reading.quarantined == (Quarantined("n1", "bad\n", 'its port "0" is not from 1 to 65535'),)


def test_instances_are_sorted_by_node_and_id_whatever_their_order() -> None:
    entries = [entry(ID=i, Address=f"10.0.0.{n}", node={"Node": f"n{n}"}) for n in (2, 1) for i in ("b", "a")]
    bad = [entry(ID=i, Port=0) for i in ("y", "x")]

    assert read(*entries, *bad) == read(*reversed(bad), *reversed(entries))
    assert [(one.node, one.instance_id) for one in read(*entries).instances] == [
        ("n1", "a"),
        ("n1", "b"),
        ("n2", "a"),
        ("n2", "b"),
    ]
