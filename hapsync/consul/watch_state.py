"""Where the watch of one service is: what it found, what it knows and trusts, and what it has to ask next."""

import enum
import math

import attrs

from hapsync.consul.evidence import Finding, Trust
from hapsync.model.catalog import Doubt, Reading
from hapsync.text import quoted

CACHED_SECONDS = 60.0
"""The longest wait through the agent's cache; to be woken by it costs Consul's servers nothing."""
UNCACHED_SECONDS = 300.0
FILTERED_WAIT_SECONDS = 10.0
"""A change of rights ends no blocking query, so while the token may not read all none is held longer."""
WARY_WAIT_SECONDS = 5.0
"""An agent that lost its stream may wait for an index that Consul no longer has, and nothing ends that."""
OPEN_WAIT_SECONDS = 1.0
"""Until the leader told whether a snapshot was restored, it is asked again after so long."""
FIRST_READ_SECONDS = 3.0
"""A Consul that takes longer for its first answer counts as away where something of the service is known."""
CONFIRM_SECONDS = 1.0
CONFIRM_AGAIN_SECONDS = 3.0
"""What may be added waits no longer than this for Consul to confirm what is gone, the first time and later."""
CACHE_RETRY_SECONDS = 60.0
"""Consul's agent refreshes its cache up to a minute late (agent/cache, `CacheRefreshMaxWait`)."""


_NO_FINDING = Finding(Reading("", ()), 0, None, is_cached=False, age_seconds=0.0)


@attrs.frozen
class Rested:
    """The pause is over."""


@attrs.frozen
class GivenUp:
    """The read ended because something else has to be read first."""


@attrs.frozen
class Failed:
    """No answer came, and why; `is_connected`: the connection of the answer before is still open."""

    error: str
    is_connected: bool = False


Found = Finding | Failed | GivenUp | Rested


@attrs.frozen
class Moment:
    """When a finding came: monotonic seconds, the wall clock's, and a number from 0 to 1 that spreads what is due."""

    seconds: float
    wall_seconds: float = 0.0
    chance: float = 0.5

    def between(self, least: float, most: float) -> float:
        """Return a number between both."""
        return least + (most - least) * self.chance


@attrs.frozen
class Read:
    """What to ask Consul: the leader what became of `confirms`, or else as `Reader.read` takes it.

    `renews`: token and certificates are read again before, for they may have been replaced.
    """

    consistency: str = "stale"
    index: int = 0
    wait_seconds: float = 0.0
    timeout_seconds: float = math.inf
    is_confirming: bool = False
    confirms: Reading | None = None
    is_again: bool = False
    renews: bool = False


@attrs.frozen
class WatchState:
    """What a watch knows of its service.

    `confirmed_at` is when Consul last gave or confirmed the reading, in seconds of the wall clock; None before the
    first. `error` is why the last try failed, None while the watch works. `trusted` is the last reading without a
    doubt, None before the first.
    """

    reading: Reading | None = None
    index: int = 0
    confirmed_at: float | None = None
    error: str | None = None
    is_cached: bool = False
    trusted: Reading | None = None


@enum.unique
class Activity(enum.Enum):
    """What the watch does: it pauses, or it has asked Consul one thing."""

    PAUSE = "pause"
    FOLLOW = "wait for a change"
    HEAR_LEADER = "ask the leader about a restore"
    LOOK_AFRESH = "read any server after trouble"
    TRY_CACHE = "try the agent's cache"
    CHECK = "safety read past the cache"
    COMPARE = "plain read beside a stream"
    CONFIRM = "ask the leader to confirm"


@attrs.frozen
class Case:
    """An answer that is being settled: as it came (`asked`), and with what was learnt since (`found`).

    `differs`: another answer says something else. `needs`: it takes away more than its evidence is good for.
    `is_cache_wrong`: the leader says something else as of the same index or an older one.
    """

    asked: Finding
    found: Finding
    differs: bool
    needs: bool = False
    is_cache_wrong: bool = False


NO_CASE = Case(_NO_FINDING, _NO_FINDING, differs=False)
_NO_STATE, _NO_TRUST = WatchState(), Trust()


@attrs.frozen(kw_only=True)
class Watching:
    """Where the watch of `service` is.

    `known` is what was known before the start. `acknowledged` is the last reading that was acted on: until then the
    readings have the mark that Consul's state went back.
    """

    service: str
    consistency: str = "cached"
    is_local: bool = True
    known: Reading | None = None
    state: WatchState = _NO_STATE
    acknowledged: Reading | None = None
    activity: Activity = Activity.PAUSE
    trust: Trust = _NO_TRUST
    case: Case = NO_CASE
    error: str = ""
    """Why the last read had no answer."""
    is_alarmed: bool = False
    """Trouble with the servers was told, and nothing was read since."""
    is_rewound: bool = False
    """Of that trouble: a snapshot may have been restored."""
    is_told: bool = False
    """The trouble is what this turn began with."""
    index: int = 0
    """What the next read waits for to change; 0 is not to wait."""
    is_streamed: bool = False
    """The last answer but those past cache and stream came out of a stream."""
    is_direct: bool = False
    """Past the agent's cache, until `cache_at` (monotonic seconds)."""
    cache_at: float = math.inf
    safety_at: float = math.inf
    doubts: int = 0
    refutations: int = 0
    failures: int = 0
    failed_at: float = -math.inf
    failing_since: float = 0.0

    @property
    def doubt(self) -> Doubt | None:
        """What speaks against the reading that is published."""
        return self.state.reading.doubt if self.state.reading is not None else None

    @property
    def is_through_cache(self) -> bool:
        """The next read goes through the agent's cache."""
        return self.consistency == "cached" and not self.is_direct

    def alarmed(self, *, is_rewound: bool) -> "Watching":
        """Take note of trouble with Consul's servers; `is_rewound`: a snapshot may have been restored."""
        return attrs.evolve(self, is_alarmed=True, is_rewound=self.is_rewound or is_rewound)

    def past_cache(self, now: float) -> "Watching":
        """Leave the agent's cache for a while."""
        if not self.is_through_cache:
            return self
        return attrs.evolve(self, is_direct=True, cache_at=now + CACHE_RETRY_SECONDS)

    def because(self, why: str) -> "Watching":
        """Take note of why the last read counts as none."""
        return attrs.evolve(self, error=f"service {quoted(self.service)}: {why}")

    def marked(self, content: Reading, doubt: Doubt | None, *, is_backwards: bool = False) -> Reading:
        """Return the reading to publish; the same object where nothing is new."""
        before = self.state.reading
        is_unacknowledged = before is not None and before.is_backwards and before is not self.acknowledged
        wanted = attrs.evolve(content, doubt=doubt, is_backwards=is_backwards or is_unacknowledged)
        return before if before is not None and before == wanted else wanted

    def read(self, at: Moment) -> Read:
        """Return what to ask Consul for the present activity."""
        state, is_again = self.state, self.doubts > 0
        plain = "default" if self.consistency == "default" else "stale"
        renews = self.doubt in {Doubt.UNCONFIRMED, Doubt.FILTERED}  # the token may have one that has its rights
        match self.activity:
            case Activity.HEAR_LEADER:
                return Read(confirms=state.reading, is_again=not self.is_told, renews=renews)
            case Activity.LOOK_AFRESH:
                return Read(plain, renews=renews)
            case Activity.TRY_CACHE:
                return Read("cached", renews=renews)
            case Activity.CHECK:
                return Read(renews=renews)
            case Activity.COMPARE:
                timeout = CONFIRM_AGAIN_SECONDS if is_again else CONFIRM_SECONDS
                return Read(timeout_seconds=timeout, is_confirming=True)
            case Activity.CONFIRM:
                return Read(confirms=self.case.found.reading, is_again=is_again)
            case Activity.PAUSE | Activity.FOLLOW:
                pass
        is_first = state.reading is None and state.error is None and self.known is not None
        return Read(
            "cached" if self.is_through_cache else plain,
            index=self.index,
            wait_seconds=self._wait_seconds(at.seconds),
            timeout_seconds=FIRST_READ_SECONDS if is_first else math.inf,
            renews=renews,
        )

    def _wait_seconds(self, now: float) -> float:
        """Return how long Consul may hold the next answer back, within what the way there bears."""
        if self.trust.is_rewind_open(now):
            return OPEN_WAIT_SECONDS
        if self.is_streamed and self.trust.is_wary(now):
            return WARY_WAIT_SECONDS
        if self.is_through_cache:
            return CACHED_SECONDS
        longest = FILTERED_WAIT_SECONDS if self.doubt is Doubt.FILTERED else UNCACHED_SECONDS
        return max(1.0, min(longest, self.cache_at - now))
