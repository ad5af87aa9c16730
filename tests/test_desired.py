"""What Consul says of each instance becomes one state and one weight in HAProxy."""

import attrs
import pytest

from hapsync.catalog import Catalog, Instance, Quarantined, Reading
from hapsync.config import BackendConfig, Config
from hapsync.desired import Desired, DesiredBackend, DesiredServer, desired, desired_backend, scale_weights
from hapsync.model import Address, AdminState, CheckStatus

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
        Quarantined("n1", "web-1", 'its address 10.0.0.1:80 is that of "web-9" on "n9" too'),
    )
    assert found == wanted(healthier, instance(1, other))


def test_of_equal_instances_on_one_address_the_first_by_node_and_id_counts() -> None:
    twin = attrs.evolve(instance(1), instance_id='web-0 "\n')
    found = wanted(instance(1), twin)

    assert [server.instance_id for server in found.servers] == ['web-0 "\n']
    reason = 'its address 10.0.0.1:80 is that of "web-0 \\"\\n" on "n1" too'
    assert found.quarantined == (Quarantined("n1", "web-1", reason),)


def test_an_instance_without_the_tags_takes_no_address_from_another() -> None:
    untagged = attrs.evolve(instance(9), address=Address("10.0.0.1", 80))
    found = wanted(untagged, instance(1, CheckStatus.CRITICAL, tags=("a",)), config=attrs.evolve(WEB, tags=("a",)))

    assert [server.instance_id for server in found.servers] == ["web-1"]


def test_what_the_catalog_left_out_is_kept_with_its_reason() -> None:
    left_out = Quarantined("n1", "web-1", "it has no address")
    found = desired_backend("web", WEB, Reading("web", (instance(2),), (left_out,)))

    assert (left_out,) == found.quarantined
    assert len(found.servers) == 1


def test_a_backend_whose_service_was_never_read_is_absent() -> None:
    config = Config(backends={"web": WEB, "api": BackendConfig(service="api"), "canary": WEB})
    found = desired(Catalog({"web": Reading("web", ())}), config)

    assert list(found.backends) == ["canary", "web"]
    assert found.backends["web"] == DesiredBackend("web", 4)


def test_the_order_of_the_configuration_does_not_matter() -> None:
    catalog = Catalog({"web": Reading("web", (instance(1),))})
    one = desired(catalog, Config(backends={"a": WEB, "b": WEB}))
    other = desired(catalog, Config(backends={"b": WEB, "a": WEB}))

    assert list(one.backends.items()) == list(other.backends.items())


def test_a_part_of_what_is_desired_can_be_taken() -> None:
    whole = Desired({name: DesiredBackend(name, 1) for name in "abc"})

    assert list(whole.only(["c", "x", "a"]).backends) == ["a", "c"]
