"""What follows the catalog beside HAProxy's backends needs no change in the agent."""

import threading
from collections.abc import Callable, Collection

import attrs

from hapsync.agent.agent import Agent
from hapsync.agent.consumer import Left
from hapsync.agent.settings import read_settings
from hapsync.errors import HapsyncError
from hapsync.model.catalog import Catalog
from hapsync.model.overrides import SavedState
from tests.demo.stage import Stage
from tests.edge.fake_consul import fake_consul
from tests.harness.processes import wait_until

ZONES = {"web.example": "web", "web.test": "web", "other.test": "other"}


@attrs.define
class Zones:
    """A table of how many instances each zone has; it does not answer at first, and then takes one record a call."""

    catalog: Callable[[], Catalog]
    table: dict[str, int] = attrs.field(factory=dict)
    refusals: int = 2

    def parts(self, services: Collection[str] | None = None) -> Collection[str]:
        return [zone for zone, service in ZONES.items() if services is None or service in services]

    def assess(self, parts: Collection[str] | None = None) -> dict[str, int]:
        readings = self.catalog().readings
        counts = {
            zone: len(readings[service].instances)
            for zone, service in ZONES.items()
            if service in readings and (parts is None or zone in parts)
        }
        return {zone: count for zone, count in counts.items() if self.table.get(zone) != count}

    def apply(
        self, parts: Collection[str], *, is_full: bool = False, before_acting: Callable[[], None] = lambda: None
    ) -> tuple[Collection[str], dict[str, int], bool] | None:
        del is_full
        if self.refusals:
            self.refusals -= 1
            raise HapsyncError("the name server does not answer")
        due = self.assess(parts)
        before_acting()
        for zone in sorted(due)[:1]:
            self.table[zone] = due[zone]
        return parts, self.assess(parts), bool(due)

    def verify(self, done: tuple[Collection[str], dict[str, int], bool]) -> Left:
        parts, due, has_done = done
        return Left(frozenset(parts), frozenset(due), has_done=has_done)


def test_a_second_consumer_follows_the_catalog_and_is_tried_again_until_it_is_in_sync() -> None:
    made: list[Zones] = []

    def make(catalog: Callable[[], Catalog]) -> Zones:
        made.append(Zones(catalog))
        return made[0]

    with fake_consul(1, 2) as fake, Stage({"web": 4}, agent=False, consul_url=lambda _stage: fake.url) as stage:
        settings = read_settings(str(stage.config_path))
        agent = Agent(settings, lambda: settings, SavedState(), others=[make])
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            wait_until(lambda: made[0].table == {"web.example": 2, "web.test": 2}, 20, "both zones to be in sync")
            fake.show(1, 2, 3, at=400)
            wait_until(lambda: made[0].table == {"web.example": 3, "web.test": 3}, 20, "a third instance to show")
            assert made[0].assess() == {}
            assert made[0].refusals == 0
        finally:
            agent.inbox.stop()
            thread.join(20)
    assert not thread.is_alive()
