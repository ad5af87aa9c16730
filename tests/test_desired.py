"""What Consul says of each instance becomes one state and one weight in HAProxy."""

import random
from ipaddress import ip_network

import attrs
import pytest

from hapsync.config.schema import BackendConfig, Config
from hapsync.model.catalog import Catalog, Doubt, Instance, Namesake, Quarantined, Reading
from hapsync.model.server import Address, AdminState, CheckStatus
from hapsync.plan.desired import (
    Desired,
    DesiredBackend,
    DesiredServer,
    desired,
    desired_backend,
    fallback_reading,
    namesake_words,
    scale_weights,
)

WEB = BackendConfig(service="web", slots=4)


def instance(
    number: int, status: CheckStatus = CheckStatus.PASSING, *weights: int, tags: tuple[str, ...] = ()
) -> Instance:
    passing, warning = weights or (1, 1)
    return Instance(
        f"n{number}", f"web-{number}", Address(f"10.0.0.{number}", 80), status, passing, warning, tuple(sorted(tags))
    )


def wanted(*instances: Instance, config: BackendConfig = WEB) -> DesiredBackend:
    return desired_backend("web", config, Reading("web", instances))


@pytest.mark.parametrize(
    ("status", "admin", "weight", "needs_slot"),
    [
        (CheckStatus.PASSING, AdminState.READY, 10, True),
        (CheckStatus.WARNING, AdminState.READY, 3, True),
        (CheckStatus.MAINTENANCE, AdminState.DRAIN, 10, False),
        (CheckStatus.CRITICAL, AdminState.MAINT, 10, False),
    ],
)
def test_a_status_becomes_a_state_and_a_weight(
    status: CheckStatus,
    admin: AdminState,
    weight: int,
    needs_slot: bool,  # noqa: FBT001
) -> None:
    (server,) = wanted(instance(1, status, 10, 3)).servers

    assert DesiredServer(Address("10.0.0.1", 80), admin, weight, "n1", "web-1", status) == server
    assert needs_slot is server.needs_slot


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([0], [0]),
        ([1], [1]),
        ([256], [256]),
        ([0, 1, 255, 256], [0, 1, 255, 256]),
        ([257], [256]),
        ([0, 257], [0, 256]),
        ([257, 1], [256, 1]),
        ([257, 256], [256, 255]),
        ([512, 256, 2, 1, 0], [256, 128, 1, 1, 0]),
        ([1000, 500, 250, 4, 3], [256, 128, 64, 1, 1]),
        ([65535, 65535], [256, 256]),
        ([65535, 32768, 255, 128, 127, 1, 0], [256, 128, 1, 1, 1, 1, 0]),
        ([65535, 383, 384], [256, 1, 2]),
    ],
)
def test_weights_stay_or_are_scaled_together(given: list[int], expected: list[int]) -> None:
    addresses = [Address("10.0.0.1", port) for port in range(1, len(given) + 1)]

    assert dict(zip(addresses, expected, strict=True)) == scale_weights(dict(zip(addresses, given, strict=True)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([65535, 1, 1], [10, 1, 1]),
        ([65535, 65535, 1, 1, 1], [10, 10, 1, 1, 1]),
        ([65535, *[10] * 9], [100, *[10] * 9]),
        ([11, 10, 10, 1], [11, 10, 10, 1]),
        ([1000, 10, 10], [100, 10, 10]),
        ([100, 1], [100, 1]),
        ([65535, 0, 0], [256, 0, 0]),
        ([600, 60, 60], [256, 26, 26]),
    ],
)
def test_no_weight_counts_for_more_than_ten_times_the_median(given: list[int], expected: list[int]) -> None:
    instances = [instance(number, CheckStatus.PASSING, weight, 1) for number, weight in enumerate(given, 1)]

    assert [server.weight for server in wanted(*instances).servers] == expected


def test_how_many_times_the_median_is_for_the_operator_to_say() -> None:
    instances = [instance(number, CheckStatus.PASSING, weight, 1) for number, weight in enumerate((250, 2, 2), 1)]

    def weights(ratio: int) -> list[int]:
        return [one.weight for one in wanted(*instances, config=attrs.evolve(WEB, max_weight_ratio=ratio)).servers]

    assert weights(1) == [2, 2, 2]
    assert weights(3) == [6, 2, 2]
    assert weights(65535) == [250, 2, 2]
    found = wanted(*instances, config=attrs.evolve(WEB, max_weight_ratio=3))
    assert [one.consul_weight for one in found.servers] == [250, None, None]


def test_the_median_is_that_of_passing_weights_of_those_that_serve() -> None:
    warned = [instance(number, CheckStatus.WARNING, 100, 1) for number in (1, 2)]
    critical = [instance(number, CheckStatus.CRITICAL, 1, 1) for number in range(4, 9)]
    found = wanted(*warned, instance(3, CheckStatus.PASSING, 100, 1), *critical)

    assert [one.weight for one in found.servers if one.needs_slot] == [1, 1, 100]


def test_only_the_weights_in_use_count_for_the_scale() -> None:
    warned = instance(1, CheckStatus.WARNING, 1000, 2)

    assert [server.weight for server in wanted(warned, instance(2, CheckStatus.PASSING, 8, 1)).servers] == [2, 8]


def test_servers_are_sorted_by_address_whatever_the_order_of_the_instances() -> None:
    instances = [instance(number) for number in (3, 1, 2)]

    assert [str(server.address) for server in wanted(*instances).servers] == [
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.3:80",
    ]
    assert wanted(*instances) == wanted(*reversed(instances))


@pytest.mark.parametrize(
    ("tags", "ids"),
    [
        ((), ["web-1", "web-2", "web-3"]),
        (("a b",), ["web-1", "web-2"]),
        (("a b", "`c`"), ["web-2"]),
        (("A b",), []),
        (("a",), []),
    ],
)
def test_all_tags_must_be_there_exactly(tags: tuple[str, ...], ids: list[str]) -> None:
    instances = (instance(1, tags=("a b",)), instance(2, tags=("a b", "`c`", "d")), instance(3))
    found = wanted(*instances, config=attrs.evolve(WEB, tags=tags))

    assert ids == [server.instance_id for server in found.servers]
    assert found.quarantined == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (CheckStatus.PASSING, CheckStatus.WARNING),
        (CheckStatus.WARNING, CheckStatus.MAINTENANCE),
        (CheckStatus.MAINTENANCE, CheckStatus.CRITICAL),
    ],
)
def test_of_instances_on_one_address_the_healthiest_counts(one: CheckStatus, other: CheckStatus) -> None:
    healthier = attrs.evolve(instance(9, one), address=Address("10.0.0.1", 80))
    found = wanted(instance(1, other), healthier)

    assert [(server.instance_id, server.status) for server in found.servers] == [("web-9", one)]
    assert found.quarantined == (
        Quarantined("n1", "web-1", 'its address 10.0.0.1:80 is that of "web-9" on "n9" too', Address("10.0.0.1", 80)),
    )
    assert found == wanted(healthier, instance(1, other))


def test_of_equal_instances_on_one_address_the_first_by_node_and_id_counts() -> None:
    twin = attrs.evolve(instance(1), instance_id='web-0 "\n')
    found = wanted(instance(1), twin)

    assert [server.instance_id for server in found.servers] == ['web-0 "\n']
    reason = 'its address 10.0.0.1:80 is that of "web-0 \\"\\n" on "n1" too'
    assert found.quarantined == (Quarantined("n1", "web-1", reason, Address("10.0.0.1", 80)),)


def test_an_instance_without_the_tags_takes_no_address_from_another() -> None:
    untagged = attrs.evolve(instance(9), address=Address("10.0.0.1", 80))
    found = wanted(untagged, instance(1, CheckStatus.CRITICAL, tags=("a",)), config=attrs.evolve(WEB, tags=("a",)))

    assert [server.instance_id for server in found.servers] == ["web-1"]


def test_where_instances_have_other_tags_is_known() -> None:
    instances = (instance(1, tags=("a",)), instance(2), attrs.evolve(instance(3), address=Address("10.0.0.1", 80)))
    tagged = attrs.evolve(WEB, tags=("a",))

    assert wanted(*instances, config=tagged).other_tags == {Address("10.0.0.2", 80)}
    assert wanted(*instances).other_tags == frozenset()


def test_a_service_is_gone_only_where_consul_has_nothing_of_it() -> None:
    left_out = Quarantined("n1", "web-1", "it has no port")

    assert wanted().is_gone
    assert not wanted(instance(1, CheckStatus.CRITICAL)).is_gone
    assert not wanted(instance(1), config=attrs.evolve(WEB, tags=("a",))).is_gone
    assert not desired_backend("web", WEB, Reading("web", (), (left_out,))).is_gone
    assert not wanted(instance(1), config=attrs.evolve(WEB, networks=(ip_network("192.0.2.0/24"),))).is_gone


def test_a_service_with_another_name_in_upper_or_lower_case_is_not_it() -> None:
    found = desired_backend("web", WEB, Reading("web", (), namesakes=(Namesake("Web"), Namesake("Web"))))

    assert found.is_gone
    assert found.namesakes == ("Web",)
    assert namesake_words("web", found.namesakes) == (
        'service "web": Consul has "Web" instead; write the name exactly so'
    )


def test_what_the_catalog_left_out_is_kept_with_its_reason() -> None:
    left_out = Quarantined("n1", "web-1", "it has no address")
    found = desired_backend("web", WEB, Reading("web", (instance(2),), (left_out,)))

    assert (left_out,) == found.quarantined
    assert len(found.servers) == 1


def test_a_backend_whose_service_was_never_read_is_absent() -> None:
    config = Config(backends={"web": WEB, "api": BackendConfig(service="api"), "canary": WEB})
    found = desired(Catalog({"web": Reading("web", ())}), config)

    assert list(found.backends) == ["canary", "web"]
    assert found.backends["web"] == DesiredBackend("web", 4, server_options=WEB.server_options)


def test_the_order_of_the_configuration_does_not_matter() -> None:
    catalog = Catalog({"web": Reading("web", (instance(1),))})
    one = desired(catalog, Config(backends={"a": WEB, "b": WEB}))
    other = desired(catalog, Config(backends={"b": WEB, "a": WEB}))

    assert list(one.backends.items()) == list(other.backends.items())


def test_a_part_of_what_is_desired_can_be_taken() -> None:
    whole = Desired({name: DesiredBackend(name, 1) for name in "abc"})

    assert list(whole.only(["c", "x", "a"]).backends) == ["a", "c"]


@pytest.mark.parametrize("doubt", [None, *Doubt])
@pytest.mark.parametrize("is_backwards", [False, True])
def test_what_speaks_against_a_reading_is_known_of_its_backend(doubt: Doubt | None, is_backwards: bool) -> None:  # noqa: FBT001
    found = desired_backend("web", WEB, Reading("web", (), doubt=doubt, is_backwards=is_backwards))

    assert (found.doubt, found.is_backwards) == (doubt, is_backwards)


def within(*networks: str) -> BackendConfig:
    return attrs.evolve(WEB, networks=tuple(ip_network(network) for network in networks))


def hosts(backend: DesiredBackend) -> list[str]:
    return [server.address.host for server in backend.servers]


@pytest.mark.parametrize(
    ("networks", "inside"),
    [
        ((), ["10.0.0.1", "10.9.9.9", "127.0.0.1", "2001:db8::1"]),
        (("10.0.0.0/8",), ["10.0.0.1", "10.9.9.9"]),
        (("10.0.0.0/24", "2001:db8::/32"), ["10.0.0.1", "2001:db8::1"]),
        (("10.9.9.9/32",), ["10.9.9.9"]),
        (("0.0.0.0/0",), ["10.0.0.1", "10.9.9.9", "127.0.0.1"]),
        (("::/0",), ["2001:db8::1"]),
        (("192.0.2.0/24",), []),
    ],
)
def test_an_instance_outside_networks_is_left_out(networks: tuple[str, ...], inside: list[str]) -> None:
    everywhere = [
        attrs.evolve(instance(number), address=Address(host, 80))
        for number, host in enumerate(("10.0.0.1", "10.9.9.9", "127.0.0.1", "2001:db8::1"), 1)
    ]
    found = wanted(*everywhere, config=within(*networks))

    assert inside == hosts(found)
    assert [one.reason for one in found.quarantined] == [
        f"its address {one.address.host} is outside networks" for one in everywhere if one.address.host not in inside
    ]


def test_an_instance_outside_networks_neither_scales_weights_nor_takes_a_place() -> None:
    strange = attrs.evolve(instance(1, CheckStatus.PASSING, 65535, 1), address=Address("192.0.2.1", 80))
    config = attrs.evolve(within("10.0.0.0/8"), max_servers=1)
    found = wanted(strange, instance(2, CheckStatus.PASSING, 7, 1), config=config)

    assert [(server.instance_id, server.weight) for server in found.servers] == [("web-2", 7)]


def test_above_max_servers_the_least_healthy_are_left_out() -> None:
    instances = [
        instance(1, CheckStatus.CRITICAL),
        instance(2, CheckStatus.MAINTENANCE),
        instance(3, CheckStatus.WARNING),
        instance(4),
        instance(5),
    ]
    for limit, kept in ((5, "12345"), (4, "2345"), (3, "345"), (2, "45"), (1, "4")):
        found = wanted(*instances, config=attrs.evolve(WEB, max_servers=limit))

        assert "".join(server.instance_id[-1] for server in found.servers) == kept
        assert {one.reason for one in found.quarantined} == (
            {f"the service has more than max_servers {limit}"} if limit < 5 else set()
        )
        assert {one.instance_id for one in found.quarantined} == {f"web-{n}" for n in "12345" if n not in kept}


def test_an_instance_more_than_max_servers_moves_nobody_out_that_comes_before_it() -> None:
    config = attrs.evolve(WEB, max_servers=3)
    before = wanted(*(instance(number) for number in (1, 2, 3)), config=config)
    after = wanted(*(instance(number) for number in (4, 1, 2, 3)), config=config)

    assert before.servers == after.servers


def test_above_max_servers_whoever_serves_already_stays_whatever_sorts_before_it() -> None:
    config = attrs.evolve(WEB, max_servers=2)
    everyone = tuple(instance(number) for number in (1, 2, 3, 4))
    served = frozenset({everyone[2].address, everyone[3].address})

    def kept(*instances: Instance) -> list[str]:
        found = desired_backend("web", config, Reading("web", instances), served)
        return [server.instance_id for server in found.servers]

    assert kept(*everyone) == ["web-3", "web-4"]
    assert kept(*everyone[:2], instance(3, CheckStatus.WARNING), everyone[3]) == ["web-3", "web-4"]
    assert kept(*everyone[:2], instance(3, CheckStatus.CRITICAL), everyone[3]) == ["web-1", "web-4"]


def test_two_instances_on_one_address_count_once_for_max_servers() -> None:
    twin = attrs.evolve(instance(1), instance_id="web-1b")
    found = wanted(instance(1), twin, instance(2), config=attrs.evolve(WEB, max_servers=2))

    assert hosts(found) == ["10.0.0.1", "10.0.0.2"]


def test_a_service_of_five_thousand_gets_its_limit_whatever_the_order() -> None:
    instances = [
        attrs.evolve(instance(1), instance_id=f"web-{one:05}", address=Address(f"10.1.{one >> 8}.{one & 255}", 80))
        for one in range(5000)
    ]
    turned = instances[:]
    random.Random(1).shuffle(turned)
    config = attrs.evolve(within("10.0.0.0/8"), max_servers=1000)
    found = wanted(*turned, config=config)

    assert found == wanted(*instances, config=config)
    assert {server.instance_id for server in found.servers} == {f"web-{one:05}" for one in range(1000)}
    assert len(found.quarantined) == 4000


ONE, TWO = Address("10.0.0.1", 80), Address("10.0.0.2", 80)


def test_a_fallback_is_a_reading_that_is_doubted() -> None:
    config = Config(backends={"web": attrs.evolve(WEB, fallback=(TWO, ONE), tags=("a",))})
    reading = fallback_reading("web", config)

    assert reading is not None
    assert reading.doubt is Doubt.FALLBACK
    assert [(one.node, one.instance_id, one.status, one.weight) for one in reading.instances] == [
        ("fallback", "10.0.0.1:80", CheckStatus.PASSING, 1),
        ("fallback", "10.0.0.2:80", CheckStatus.PASSING, 1),
    ]
    found = desired_backend("web", config.backends["web"], reading)
    assert (hosts(found), found.serving, found.doubt) == (["10.0.0.1", "10.0.0.2"], 2, Doubt.FALLBACK)


def test_a_service_without_fallback_has_no_such_reading() -> None:
    config = Config(backends={"web": WEB, "api": BackendConfig(service="api", fallback=(ONE,))})

    assert fallback_reading("web", config) is None
    assert fallback_reading("other", config) is None


def test_backends_that_share_a_service_keep_their_own_fallbacks() -> None:
    config = Config(
        backends={
            "blue": attrs.evolve(WEB, fallback=(ONE,), tags=("blue",)),
            "green": attrs.evolve(WEB, fallback=(TWO, ONE), tags=("green",)),
            "none": WEB,
        }
    )
    reading = fallback_reading("web", config)
    assert reading is not None

    found = desired(Catalog({"web": reading}), config).backends
    assert {name: hosts(backend) for name, backend in found.items()} == {
        "blue": ["10.0.0.1"],
        "green": ["10.0.0.1", "10.0.0.2"],
        "none": [],
    }
