"""What HAProxy should have by what Consul says, worked out here once more, without any of hapsync's code."""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from tests.harness.haproxy import ServerState
from tests.harness.origin import origin_name

MAX_WEIGHT = 256
RATIO = 10
"""`max_weight_ratio` unless it is set."""


@frozen
class Placed:
    """How a server stands in HAProxy: "ready", "drain", "maint" or "down"; `weight` counts for a ready one only.

    `passing` is Consul's weight of it while it passes, 0 where that is `weight`.
    """

    state: str
    weight: int
    passing: int = field(default=0, eq=False)

    def looks_like(self, other: "Placed") -> bool:
        """Whether HAProxy serves alike with both."""
        return self.state == other.state and (self.weight == other.weight or self.state != "ready")

    def __str__(self) -> str:
        return f"{self.state}, weight {self.weight}" if self.state == "ready" else self.state


_AWAY = Placed("maint", 0)


def wanted(entries: Iterable[Mapping[str, Any]]) -> dict[str, Placed]:
    """By address, what the entries of /v1/health/service ask for."""
    return scaled({_address(entry): _placed(entry) for entry in entries})


def scaled(placed: Mapping[str, Placed]) -> dict[str, Placed]:
    """The same with weights that HAProxy can have: at most 256, all of a backend scaled together.

    Before that none counts for more than `RATIO` times the median of those that are ready.
    """
    passing = sorted(one.passing or one.weight for one in placed.values() if one.state == "ready")
    passing = [weight for weight in passing if weight]
    most = RATIO * passing[len(passing) // 2] if passing else 0
    placed = {
        address: evolve(one, weight=min(one.weight, most) if most else one.weight) for address, one in placed.items()
    }
    largest = max((one.weight for one in placed.values()), default=0)
    if largest <= MAX_WEIGHT:
        return dict(placed)
    return {
        address: Placed(one.state, max(1, round(MAX_WEIGHT * one.weight / largest)) if one.weight else 0)
        for address, one in placed.items()
    }


def placed(server: ServerState) -> Placed:
    """How a server of `show servers state` stands."""
    if server.in_maintenance:
        return Placed("maint", server.weight)
    if server.draining:
        return Placed("drain", server.weight)
    return Placed("ready" if server.running else "down", server.weight)


def address(server: ServerState) -> str:
    return origin_name(server.address, server.port)


def differences(want: Mapping[str, Placed], servers: Mapping[str, ServerState]) -> list[str]:
    """What is not in HAProxy as it should be, a line each; empty when all is.

    An instance that should not serve needs no server; a server that nobody wants must be in maintenance.
    """
    found: list[str] = []
    have: dict[str, Placed] = {}
    for server in servers.values():
        where, how = address(server), placed(server)
        if where in want and have.get(where, _AWAY).state == "maint":
            have[where] = how
        elif how.state != "maint":
            whose = "another server should" if where in want else "Consul does not"
            found.append(f"{server.name} {where} is {how}, but {whose} have it")
    for where, should in want.items():
        how = have.get(where, _AWAY)
        if not how.looks_like(should):
            is_absent = where not in have
            if not (is_absent and should.state == "drain"):
                found.append(f"{where} is {'in no slot' if is_absent else how} instead of {should}")
    return found


def _address(entry: Mapping[str, Any]) -> str:
    return origin_name(entry["Service"]["Address"] or entry["Node"]["Address"], entry["Service"]["Port"])


def _placed(entry: Mapping[str, Any]) -> Placed:
    checks = [(str(check["CheckID"]), str(check["Status"])) for check in entry["Checks"]]
    weights = entry["Service"]["Weights"]
    passing, warning = int(weights["Passing"]), int(weights["Warning"])
    if any(name == "_node_maintenance" or name.startswith("_service_maintenance:") for name, _ in checks):
        return Placed("drain", passing)
    statuses = {status for _, status in checks}
    if "critical" in statuses:
        return Placed("maint", passing)
    return Placed("ready", warning if "warning" in statuses else passing, passing)
