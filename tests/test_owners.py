"""An address that a service had for itself is another one's once an answer beyond doubt says so."""

import attrs
import pytest

from hapsync.model.catalog import Doubt, Instance, Quarantined, Reading
from hapsync.model.server import Address, CheckStatus
from hapsync.plan.owners import KEPT, Owners


def at(number: int) -> Address:
    return Address(f"10.0.{number // 250}.{number % 250}", 80)


def reading(service: str, *numbers: int, status: CheckStatus = CheckStatus.PASSING) -> Reading:
    return Reading(service, tuple(Instance("n", f"{service}-{number}", at(number), status) for number in numbers))


def told(*turns: tuple[Reading, ...]) -> Owners:
    owners = Owners()
    for turn in turns:
        owners = owners.noted({**owners.readings, **{one.service: one for one in turn}})
    return owners


WEB, NO_WEB = reading("web", 1, 2, 3), reading("web")


def test_an_address_that_another_service_has_now_is_taken() -> None:
    owners = told((WEB, reading("api")), (NO_WEB,), (reading("api", 2),))

    assert owners.taken("web") == {at(2)}
    assert owners.taken("api") == frozenset()
    assert owners.taken("never seen") == frozenset()


def test_both_changes_may_come_at_once() -> None:
    assert told((WEB, reading("api")), (NO_WEB, reading("api", 2))).taken("web") == {at(2)}


@pytest.mark.parametrize("first", ["web", "api"])
def test_an_address_that_was_in_both_services_is_never_taken(first: str) -> None:
    both = (WEB, reading("api", 2))
    steps = [(NO_WEB,), (reading("api"),)]
    owners = told(both, *(steps if first == "web" else steps[::-1]), (reading("api", 2),))

    assert owners.taken("web") == frozenset()
    assert told(both, (NO_WEB, reading("api")), (reading("api", 2),)).taken("web") == frozenset()
    assert told(both, (NO_WEB,)).taken("web") == frozenset()


def test_an_address_that_the_service_has_again_is_not_taken() -> None:
    assert (
        told((WEB, reading("api")), (NO_WEB,), (reading("api", 2),), (reading("web", 2),)).taken("web") == frozenset()
    )


def test_an_address_that_the_service_has_in_an_entry_that_is_left_out_is_not_lost() -> None:
    left_out = Reading("web", (), (Quarantined("n", "web-2", "its weights are not a table", at(2)),))

    assert told((WEB, reading("api")), (left_out,), (reading("api", 2),)).taken("web") == frozenset()


@pytest.mark.parametrize(
    "doubtful",
    [
        *(attrs.evolve(reading("api", 2), doubt=doubt) for doubt in Doubt),
        attrs.evolve(reading("api", 2), is_backwards=True),
        reading("api", 2, status=CheckStatus.CRITICAL),
        reading("api", 2, status=CheckStatus.MAINTENANCE),
    ],
    ids=repr,
)
def test_only_what_serves_by_an_answer_beyond_doubt_takes_an_address(doubtful: Reading) -> None:
    assert told((WEB, reading("api")), (NO_WEB,), (doubtful,)).taken("web") == frozenset()


def test_what_was_never_the_services_own_is_not_taken() -> None:
    assert told((NO_WEB, reading("api")), (reading("api", 2),)).taken("web") == frozenset()


def test_what_was_lost_before_the_start_is_given_from_outside() -> None:
    owners = Owners.of([("web", at(1)), ("web", at(2))])

    assert owners.own("web") == {at(1), at(2)}
    assert owners.noted({"web": NO_WEB, "api": reading("api", 2)}).taken("web") == {at(2)}
    assert owners.noted({"web": reading("web", 2), "api": reading("api", 2)}).taken("web") == frozenset()
    assert told((WEB, reading("api", 2)), (NO_WEB,)).own("web") == {at(1), at(3)}


def test_readings_that_are_not_new_change_nothing() -> None:
    owners = told((WEB,))

    assert owners.noted({"web": WEB}) is owners
    assert owners.noted({}) is owners


def test_what_is_remembered_is_bounded() -> None:
    owners = Owners()
    for turn in range(12):
        owners = owners.noted({"web": reading("web", *range(turn * 2000, turn * 2000 + 2000))})

    assert len(owners.lost) == KEPT
    assert ("web", at(21_999)) in owners.lost
