"""Consul's answer is read whole, and one bad instance is left out alone."""

import copy
import json
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hapsync.consul.health import NotAList, elements, parse_reading
from hapsync.errors import CatalogError
from hapsync.model.catalog import Instance, Quarantined, Reading
from hapsync.model.server import Address, CheckStatus

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
        (b'[{"Port": 80,' + b"1" * 5000 + b"}]", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "not a list"),
        (b"{}", "not a list"),
        (b'"[]"', "not a list"),
        (b"[null]", "not an entry"),
        (b"[[]]", "not an entry"),
        (b"[{}]", "not an entry"),
        (b"[5]", "not an entry"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_an_answer_that_is_not_whole_is_no_reading(body: bytes, says: str) -> None:
    with pytest.raises(CatalogError, match=f'service "web".*{says}'):
        parse_reading("web", body)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"Node": None}, "its node has no name"),
        ({"Node": "n1"}, "its node has no name"),
        ({"Node": {}}, "its node has no name"),
        ({"Node": {"Node": 5, "Address": "10.0.0.1"}}, "its node has no name"),
        ({"Service": None}, "it has no service id"),
        ({"Service": []}, "it has no service id"),
        ({"Service": {"ID": None, "Address": "10.0.0.1", "Port": 1}}, "it has no service id"),
        ({"Service": {"ID": ["i"], "Address": "10.0.0.1", "Port": 1}}, "it has no service id"),
        ({"Service": {"ID": "i", "Address": "10.0.0.1"}}, "it has no port"),
        ({"Service": {"ID": "i", "Address": "10.0.0.1", "Port": 1, "Service": 5}}, "the name of its service"),
        ({"Node": {"Node": "n1"}, "Service": {"ID": "i", "Address": "", "Port": 1}}, "it has no address"),
        ({"Checks": 5}, "its checks are not a list"),
        ({"Checks": [None]}, "one of its checks is not a table"),
        ({"Checks": ["passing"]}, "one of its checks is not a table"),
        ({"Checks": [{"CheckID": "c"}]}, "one of its checks has no status"),
        ({"Checks": [{"CheckID": "c", "Status": ["passing"]}]}, "one of its checks has no status"),
    ],
    ids=json.dumps,
)
def test_an_entry_that_is_not_whole_is_left_out_alone(damage: Mapping[str, Any], says: str) -> None:
    good = entry(ID="good", Address="10.0.0.9")
    reading = read(good, {**entry(), **damage})

    assert [one.instance_id for one in reading.instances] == ["good"]
    assert [one.reason for one in reading.quarantined if says in one.reason]


def test_an_entry_without_a_list_of_checks_is_left_out() -> None:
    bare = entry()
    del bare["Checks"]

    assert only_reason(bare) == "its checks are not a list"


def test_a_check_without_an_id_is_no_maintenance() -> None:
    assert only_instance({**entry(), "Checks": [{"Status": "passing"}]}).status is CheckStatus.PASSING
    assert only_instance({**entry(), "Checks": [{"Status": "critical"}]}).status is CheckStatus.CRITICAL


def test_a_list_in_which_nothing_names_its_instance_is_no_answer_of_consuls() -> None:
    with pytest.raises(CatalogError, match="is it Consul"):
        read({"error": "no route"}, {"Node": 5, "Service": "web"})
    with pytest.raises(CatalogError, match="is it Consul"):
        read(None)


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


METADATA = (
    *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    *("fd00:42::42", "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:100::100:200"),
)


@pytest.mark.parametrize("address", [*METADATA, "FD00:0EC2:0:0::254", "::ffff:100.100.100.200", "::ffff:a83f:8110"])
def test_an_instance_where_a_cloud_serves_its_metadata_is_left_out(address: str) -> None:
    assert only_reason(entry(Address=address)).endswith("is where a cloud serves its metadata")
    assert only_reason(entry(Address="", node={"Address": address})).endswith("is where a cloud serves its metadata")


TRANSLATED = {
    "compatible": "::{high:x}:{low:x}",
    "SIIT": "::ffff:0:{high:x}:{low:x}",
    "NAT64": "64:ff9b::{high:x}:{low:x}",
    "NAT64 of a site, /96": "64:ff9b:1:7::{high:x}:{low:x}",
    "NAT64 of a site, /48": "64:ff9b:1:{high:x}:{a:x}:{b:x}00::",
    "NAT64 of a site, /56": "64:ff9b:1:{first:x}:{middle:x}:{low:x}::",
    "NAT64 of a site, /64": "64:ff9b:1:0:{first:x}:{inner:x}:{last:x}00::",
    "6to4": "2002:{high:x}:{low:x}::1",
    "ISATAP": "2001:db8::5efe:{high:x}:{low:x}",
    "ISATAP, global": "2001:db8::200:5efe:{high:x}:{low:x}",
    "Teredo": "2001:0:c000:201:0:0:{flipped_high:x}:{flipped_low:x}",
    "Teredo server": "2001:0:{high:x}:{low:x}:0:0:f5ff:fffe",
}


def translated(form: str, address: str) -> str:
    high, low = divmod(int(ip_address(address)), 1 << 16)
    return TRANSLATED[form].format(
        high=high,
        low=low,
        a=low >> 8,
        b=low & 0xFF,
        first=high >> 8,
        middle=high & 0xFF,
        inner=(high & 0xFF) << 8 | low >> 8,
        last=low & 0xFF,
        flipped_high=high ^ 0xFFFF,
        flipped_low=low ^ 0xFFFF,
    )


@pytest.mark.parametrize("form", TRANSLATED)
def test_an_ipv4_address_behind_a_translation_is_judged_as_ipv4(form: str) -> None:
    for address, why in (
        ("169.254.169.254", "link-local"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("127.0.0.1", "loopback"),
        ("255.255.255.255", "broadcast"),
        ("224.0.0.1", "multicast"),
    ):
        reason = only_reason(entry(Address=translated(form, address)))
        assert f"{address} behind a translation, which is" in reason
        assert why in reason
    for address in ("10.0.0.1", "192.0.2.1"):
        assert only_instance(entry(Address=translated(form, address))).address.port == 8080


@pytest.mark.parametrize("address", ["255.255.255.255", "0.1.2.3"])
def test_an_instance_at_no_single_host_is_left_out(address: str) -> None:
    assert only_reason(entry(Address=address)).startswith(f"its address {address} is ")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "240.0.0.1", "fd12:3456::1"])
def test_loopback_and_private_addresses_are_served(address: str) -> None:
    assert only_instance(entry(Address=address)).address.host == address


@pytest.mark.parametrize("address", [None, 5, True, ["10.0.0.1"], {"a": 1}], ids=json.dumps)
def test_an_instance_whose_address_is_no_text_is_left_out(address: object) -> None:
    assert only_reason(entry(Address=address, node={"Address": address})) == "it has no address"


def test_an_instance_with_no_address_anywhere_is_left_out() -> None:
    assert only_reason(entry(Address="", node={"Address": ""})) == "it has no address"


@pytest.mark.parametrize(
    "port",
    [-1, 65536, 99999, 10**30, 80.0, 80.5, True, "80", "", "80; quit", "80\n", [80], {"port": 80}],
    ids=json.dumps,
)
def test_an_instance_whose_port_is_no_port_is_left_out(port: object) -> None:
    reason = only_reason(entry(Port=port))

    assert reason.startswith(('its port "', "its port (a "))
    assert reason.endswith(" is not from 1 to 65535")


@pytest.mark.parametrize("port", [0, None, ...], ids=repr)
def test_an_instance_without_a_port_is_left_out(port: object) -> None:
    assert only_reason(entry(Port=port)) == "it has no port"


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_every_tcp_port_is_served(port: int) -> None:
    assert only_instance(entry(Port=port)).address.port == port


def test_the_address_of_free_slots_is_left_out() -> None:
    assert only_reason(entry(Address="127.0.0.1", Port=1)) == "its address 127.0.0.1:1 is where free slots point"


@pytest.mark.parametrize("weight", [-1, 65536, 1.5, True, None, "1", "1; quit", [1]], ids=json.dumps)
@pytest.mark.parametrize("of", ["Passing", "Warning"])
def test_an_instance_whose_weight_is_no_weight_is_left_out(of: str, weight: object) -> None:
    reason = only_reason(entry(Weights={"Passing": 1, "Warning": 1, of: weight}))

    assert reason.startswith(('its weight "', "its weight (a "))
    assert reason.endswith(" is not from 0 to 65535")


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
    assert reading.quarantined == (Quarantined("n1", "bad\n", "it has no port"),)


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


def nested(levels: int) -> str:
    return '{"x":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    "odd",
    [nested(3), nested(5_000), nested(100_000), "[" * 5_000 + "]" * 5_000, "9" * 5_000, "-" + "9" * 9_999, "1e999"],
    ids=lambda odd: f"{odd[:5]} {len(odd)}",
)
def test_what_a_registrant_hides_in_an_entry_costs_nobody_anything(odd: str) -> None:
    """Consul gives back any table of `Proxy.Config`, also one that Python's JSON reader refuses."""
    hiding = json.dumps(entry(ID="hiding", Proxy={"Config": "HERE", 'a ] [ } \\" {': "]"}, Address="10.0.0.2"))
    body = f"[{json.dumps(entry())}, {hiding.replace(json.dumps('HERE'), odd)}, {json.dumps(entry(ID='z'))}]"
    reading = parse_reading("web", body.encode())

    assert [one.instance_id for one in reading.instances] == ["hiding", "web-1", "z"]
    assert reading.quarantined == ()


def test_bytes_that_are_no_utf_8_cost_only_the_text_they_are_in() -> None:
    body = json.dumps([entry(), entry(ID="other", Address="BAD")]).encode().replace(b"BAD", b"10.0.0.\xff")
    reading = parse_reading("web", body)

    assert [one.instance_id for one in reading.instances] == ["web-1"]
    assert [one.instance_id for one in reading.quarantined] == ["other"]


@pytest.mark.parametrize(
    "body",
    [b'[{"x": ' + b"[" * 5_000, b"[" * 5_000 + b"]" * 4_999, b"]" * 9, b'["' + b"[" * 9_999],
    ids=len,
)
def test_what_is_nested_deeply_and_is_no_json_is_no_reading(body: bytes) -> None:
    with pytest.raises(CatalogError, match="not JSON"):
        parse_reading("web", body)


@pytest.mark.parametrize("version", ["1.8.7", "1.14.11"])
def test_instances_of_a_service_whose_name_differs_in_case_are_another_services(version: str) -> None:
    lower, upper = (parse_reading(name, real_answer(version)) for name in ("web", "WEB"))

    assert [one.instance_id for one in lower.instances] == ["web-1", "web-4", "web-2", "web-3"]
    assert [one.instance_id for one in upper.instances] == ["other-1"]
    assert [(one.service, str(one.address)) for one in lower.namesakes] == [("WEB", "10.0.0.6:8080")]
    assert {one.service for one in upper.namesakes} == {"web"}
    assert parse_reading("Web", real_answer(version)).is_empty
    assert len(parse_reading("Web", real_answer(version)).namesakes) == 6


def real_answer(version: str) -> bytes:
    """What that Consul answers for the service web: four instances, one without a port, one of the service WEB."""
    return Path(__file__).with_name("data").joinpath(f"health-{version}.json").read_bytes()


@pytest.mark.parametrize("version", ["1.8.7", "1.14.11"])
def test_a_real_answer_is_read_and_the_instance_without_a_port_is_left_out_alone(version: str) -> None:
    reading = parse_reading("web", real_answer(version))

    assert {one.instance_id: (str(one.address), one.status.value, one.weight) for one in reading.instances} == {
        "web-1": ("10.0.0.1:8080", "passing", 10),
        "web-2": ("10.0.0.2:8080", "warning", 2),
        "web-3": ("10.0.0.3:8080", "maintenance", 1),
        "web-4": ("10.0.0.4:8080", "passing", 1),
    }
    assert reading.quarantined == (Quarantined("lab", "web-5", "it has no port"),)


Path_ = tuple[str | int, ...]


def fields_of(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Every place within `value`, itself first."""
    yield at
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from fields_of(one, (*at, key))


ODD = st.one_of(
    st.sampled_from((None, True, False, 0, -1, 80, 1e300, 10**40, "", "x", [], {}, [[]], {"Node": {}}, "\ud800")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(("a" * 100_000, "\0", "10.0.0.1\n", "passing", "critical", "0x50")),
)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(("1.8.7", "1.14.11")), st.integers(0, 3), st.data(), st.booleans())
def test_whatever_is_missing_or_of_another_type_in_an_entry_costs_that_entry_alone(
    version: str,
    number: int,
    data: st.DataObject,
    is_deleted: bool,  # noqa: FBT001
) -> None:
    answer: list[Any] = json.loads(real_answer(version))
    [place] = [place for place, one in enumerate(answer) if one["Service"]["ID"] == f"web-{number + 1}"]
    path = data.draw(st.sampled_from(sorted(fields_of(answer[place]), key=repr)))
    odd = data.draw(ODD)
    inside: Any = answer
    where: Path_ = (place, *path)
    for key in where[:-1]:
        inside = inside[key]
    if is_deleted and path:
        del inside[where[-1]]
    else:
        inside[where[-1]] = odd
    others = {f"web-{other}" for other in range(1, 5)} - {f"web-{number + 1}"}

    reading = parse_reading("web", json.dumps(answer).encode())

    there = [one for one in reading.instances if one.instance_id not in others]
    left_out = [one for one in reading.quarantined if one.instance_id != "web-5"]
    elsewhere = [one for one in reading.namesakes if one.service != "WEB"]
    assert others <= {one.instance_id for one in reading.instances}
    assert "web-5" in {one.instance_id for one in reading.quarantined}
    assert len(reading.instances) + len(left_out) + len(elsewhere) == 4
    assert len(there) <= 1
    assert all(one.reason and one.reason.isascii() and one.reason.isprintable() for one in left_out)
    assert all(len(one.reason) < 300 for one in left_out)


def test_a_large_answer_needs_little_more_memory_than_its_own_size() -> None:
    check = {"Node": "n", "CheckID": "serfHealth", "Status": "passing", "Output": "Agent alive", "ServiceTags": []}
    entries = [
        {
            "Node": {"Node": f"n{number}", "Address": "10.0.0.1", "Meta": {"zone": "a"}},
            "Service": {"ID": f"w{number}", "Service": "web", "Address": "", "Port": number + 1, "Tags": ["a", "b"]},
            "Checks": [check, check],
        }
        for number in range(5000)
    ]
    body = json.dumps(entries).encode()
    del entries
    tracemalloc.start()
    try:
        reading = parse_reading("web", body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(reading.instances) == 5000
    assert peak < 3.5 * len(body)


@pytest.mark.parametrize("odd", [None, [], "passing", {"Status": []}, {"Status": None, "ModifyIndex": "7"}])
def test_a_check_of_a_wrong_type_beside_maintenance_costs_nothing(odd: object) -> None:
    in_maintenance = {"CheckID": "_node_maintenance", "Status": "critical", "ModifyIndex": 7}
    (one,) = parse_reading("web", json.dumps([entry() | {"Checks": [in_maintenance, odd]}]).encode()).instances

    assert (one.status, one.critical_index) == (CheckStatus.MAINTENANCE, 7)


# -- a JSON list read element by element is the list that `json.loads` reads ---------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(VALUES), st.sampled_from([None, 1, "\t"]))
def test_the_elements_are_those_that_the_library_reads(values: list[Any], indent: int | str | None) -> None:
    text = json.dumps(values, indent=indent)

    assert list(elements(f" {text}\n")) == values


@given(st.lists(st.sampled_from(["[", "]", ",", "{", "}", '"a"', ":", "1", " ", "null", "x"]), max_size=8))
def test_what_the_library_refuses_is_refused(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            list(elements(text))
        return
    if isinstance(expected, list):
        assert list(elements(text)) == expected
    else:
        with pytest.raises(NotAList):
            list(elements(text))
