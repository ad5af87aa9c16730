"""Consul's catalog: instances of services, their readings, and the doubts about a reading."""

import enum
from collections.abc import Mapping

import attrs

from hapsync.model.server import Address, CheckStatus

MAX_CONSUL_WEIGHT = 65535
"""Consul refuses larger weights in a registration (agent/structs, ValidateWeights)."""


@attrs.frozen
class Instance:
    """One healthy or unhealthy instance of a service, fit to be sent to HAProxy.

    `passing_weight` and `warning_weight` are Consul's `Weights`; 1 where the catalog has none. `create_index` and
    `modify_index` are Consul's indexes of the first and the last registration, and `critical_index` is the index of
    the last change of a failing check; 0 where they are not known. The indexes are evidence only, so they do not
    count in the equality of readings.
    """

    node: str
    instance_id: str
    address: Address
    status: CheckStatus
    passing_weight: int = 1
    warning_weight: int = 1
    tags: tuple[str, ...] = ()
    create_index: int = attrs.field(default=0, eq=False)
    modify_index: int = attrs.field(default=0, eq=False)
    critical_index: int = attrs.field(default=0, eq=False)

    @property
    def weight(self) -> int:
        """The weight for the status; a critical instance keeps its passing weight for its return."""
        return self.warning_weight if self.status is CheckStatus.WARNING else self.passing_weight


@attrs.frozen
class Quarantined:
    """An entry that is left out, and why; the texts are Consul's, raw, and empty where the entry has none.

    `address` is the entry's address, None without a usable one.
    """

    node: str
    instance_id: str
    reason: str
    address: Address | None = None


@attrs.frozen
class Namesake:
    """An instance of a service whose name differs from the requested one only in upper and lower case.

    Consul answers for all such services together (measured with 1.8.7 and 1.14.11), but lists each service
    separately.
    """

    service: str
    address: Address | None = None


@enum.unique
class Doubt(enum.Enum):
    """The reasons why a reading may not remove servers; the values are the words for operators."""

    SNAPSHOT = "Consul has not answered since the start"
    FALLBACK = "Consul has not answered and there is no snapshot"
    AWAY = "Consul does not answer"
    NO_LEADER = "Consul's servers have no leader"
    STALE = "Consul's answer is too old"
    FILTERED = "the token may not read all of it"
    UNCONFIRMED = "a second read of Consul did not confirm the answer"

    @classmethod
    def _missing_(cls, value: object) -> "Doubt | None":
        """Return the doubt that 0.1 wrote into its snapshot with these words; None for other words."""
        return _WORDS_OF_0_1.get(value) if isinstance(value, str) else None


_WORDS_OF_0_1 = {
    "the answer is too old": Doubt.STALE,
    "Consul did not confirm its answer": Doubt.UNCONFIRMED,
}
"""Words of 0.1 that have changed since. The version of the snapshot is the same, so a start after an upgrade reads
them."""


NOT_TELLING = (Doubt.AWAY, Doubt.SNAPSHOT, Doubt.FALLBACK)
"""The doubts with which Consul's present state is unknown."""


@attrs.frozen
class Reading:
    """All of Consul's entries of one service, sorted by node and instance id; `namesakes` are other services.

    Additions act on any reading, removals only on a reading without `doubt`. `is_backwards`: Consul's state went back
    since the answer before, because its servers lost their state or restored an old one. The following readings have
    the mark, too, until one was acknowledged. `index` is Consul's index at the first read of this content, 0 where it
    is not known.
    """

    service: str
    instances: tuple[Instance, ...]
    quarantined: tuple[Quarantined, ...] = ()
    doubt: Doubt | None = None
    is_backwards: bool = False
    index: int = attrs.field(default=0, eq=False)
    namesakes: tuple[Namesake, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Consul has no entry of this service, not even a quarantined one."""
        return not self.instances and not self.quarantined


@attrs.frozen
class Catalog:
    """The readings at hand; a service without a reading is unknown, not empty."""

    readings: Mapping[str, Reading]
