"""The state of the watch of one service: its findings, its readings and trust, and its next question."""

import enum
import math

import attrs

from hapsync.consul.evidence import Finding, Trust, same_content
from hapsync.consul.query import Query, uncached
from hapsync.model.catalog import Doubt, Reading
from hapsync.text import quoted

CACHED_SECONDS = 60.0
"""The longest wait through the agent's cache; its wake-ups cost Consul's servers nothing."""
UNCACHED_SECONDS = 300.0
FILTERED_WAIT_SECONDS = 10.0
"""The longest wait while the token may not read all, because a change of rights ends no blocking query."""
OPEN_WAIT_SECONDS = 1.0
"""The longest wait until the leader has said whether a snapshot was restored."""
FIRST_READ_SECONDS = 3.0
"""The timeout of the first read of a service with a known reading; without an answer Consul counts as away."""
CONFIRM_SECONDS = 1.0
CONFIRM_AGAIN_SECONDS = 3.0
"""The longest wait, the first time and later, for a confirmation of losses: additions in the same answer wait,
too."""
CACHE_RETRY_SECONDS = 60.0
"""Consul's agent refreshes its cache up to a minute late (agent/cache, `CacheRefreshMaxWait`)."""


_NO_FINDING = Finding(Reading("", ()), 0, None, is_cached=False, age_seconds=0.0)


@attrs.frozen
class Rested:
    """The end of a pause."""


@attrs.frozen
class GivenUp:
    """A read that ended because another read goes first."""


@attrs.frozen
class Failed:
    """A read without an answer, and why; `is_connected`: the connection of the last answer is still open."""

    error: str
    is_connected: bool = False


Found = Finding | Failed | GivenUp | Rested


@attrs.frozen
class Moment:
    """The time of a finding: monotonic seconds, wall-clock seconds, and a random number from 0 to 1 for intervals."""

    seconds: float
    wall_seconds: float = 0.0
    chance: float = 0.5

    def between(self, least: float, most: float) -> float:
        """Return a number between `least` and `most`, by the random number."""
        return least + (most - least) * self.chance


@attrs.frozen
class Read(Query):
    """A read of the service, or a question to the leader about the reading `confirms`.

    `is_confirming`: the read has the pace of the answer that it confirms. `is_again`: the leader is not asked for the
    first time. `renews`: token and certificates are read again first, for they may have been replaced.
    """

    is_confirming: bool = False
    confirms: Reading | None = None
    is_again: bool = False
    renews: bool = False


@attrs.frozen
class WatchState:
    """The knowledge of a watch about its service.

    `confirmed_at` is the time of Consul's last answer with this reading, in seconds of the wall clock; None before
    the first. `error` is why the last try failed, None while the watch works. `trusted` is the last reading without a
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
    """The activity of a watch: a pause, or one question to Consul."""

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
    """An answer that is being settled: the original (`asked`), and the version corrected by later reads (`found`).

    `differs`: another answer disagrees. `needs`: the answer removes more than its evidence allows. `is_cache_wrong`:
    the leader disagrees at the same index or an older one.
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
    """The state of the watch of `service`.

    `known` is a reading from before the start. `acknowledged` is the last reading that the agent acted on; the mark
    `is_backwards` stays on the readings until then.
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
    """The watch was told of trouble with the servers, and has not read since."""
    is_rewound: bool = False
    """The trouble may be a restored snapshot."""
    is_told: bool = False
    """The present turn began with the trouble."""
    index: int = 0
    """The index of the next blocking query; 0 for a query that does not block."""
    is_streamed: bool = False
    """The last answer was from a stream; answers past cache and stream do not count."""
    is_past_stream: bool = False
    """The blocking queries go past the agent's stream, which may have lost the servers and not found them again."""
    is_direct: bool = False
    """The reads go past the agent's cache until `cache_at` (monotonic seconds)."""
    cache_at: float = math.inf
    safety_at: float = math.inf
    doubts: int = 0
    refutations: int = 0
    failures: int = 0
    failed_at: float = -math.inf
    failing_since: float = 0.0

    @property
    def doubt(self) -> Doubt | None:
        """The doubt of the published reading."""
        return self.state.reading.doubt if self.state.reading is not None else None

    @property
    def is_through_cache(self) -> bool:
        """The next read goes through the agent's cache, or its stream."""
        return self.consistency == "cached" and not (self.is_direct or self.is_past_stream)

    def alarmed(self, *, is_rewound: bool) -> "Watching":
        """Take note of trouble with Consul's servers; `is_rewound`: a snapshot may have been restored."""
        return attrs.evolve(self, is_alarmed=True, is_rewound=self.is_rewound or is_rewound)

    def past_cache(self, now: float) -> "Watching":
        """Read past the agent's cache for `CACHE_RETRY_SECONDS`."""
        if self.consistency != "cached" or self.is_direct:
            return self
        return attrs.evolve(self, is_direct=True, cache_at=now + CACHE_RETRY_SECONDS)

    def tried_cache(self, found: Finding) -> "Watching":
        """Go back to the agent's cache if it is in touch again and agrees with the servers."""
        if not found.is_cached:
            return attrs.evolve(self, cache_at=math.inf)  # this agent has no cache
        reading = self.state.reading
        is_live = not found.is_behind and found.doubt is None
        is_same = reading is not None and same_content(found.reading, reading)
        # An index above the servers' index would only block: their state went back, and the agent has not noticed.
        if not (is_live and is_same and found.index <= self.trust.index):
            return self
        state = attrs.evolve(self.state, is_cached=True)
        index = self.index if self.is_past_stream else max(found.index, 1)
        return attrs.evolve(self, state=state, is_direct=False, index=index)

    def because(self, why: str) -> "Watching":
        """Note why the last read counts as failed."""
        return attrs.evolve(self, error=f"service {quoted(self.service)}: {why}")

    def marked(self, content: Reading, doubt: Doubt | None, *, is_backwards: bool = False) -> Reading:
        """Return the reading to publish; the same object without news."""
        before = self.state.reading
        is_unacknowledged = before is not None and before.is_backwards and before is not self.acknowledged
        wanted = attrs.evolve(content, doubt=doubt, is_backwards=is_backwards or is_unacknowledged)
        return before if before is not None and before == wanted else wanted

    def read(self, at: Moment) -> Read:
        """Return the read of the present activity."""
        state, is_again = self.state, self.doubts > 0
        plain = uncached(self.consistency)
        renews = self.doubt in {Doubt.UNCONFIRMED, Doubt.FILTERED}  # the token file may hold another token by now
        match self.activity:
            case Activity.HEAR_LEADER:
                return Read(confirms=state.reading, is_again=not self.is_told, renews=renews)
            case Activity.LOOK_AFRESH:
                return Read(plain, renews=renews)
            case Activity.TRY_CACHE:
                return Read("cached", renews=renews)
            case Activity.CHECK:
                return Read("stale", renews=renews)
            case Activity.COMPARE:
                timeout = CONFIRM_AGAIN_SECONDS if is_again else CONFIRM_SECONDS
                return Read("stale", timeout_seconds=timeout, is_confirming=True)
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
            avoids_stream=self.is_past_stream,
        )

    def _wait_seconds(self, now: float) -> float:
        """Return the longest wait of the next blocking query, in seconds."""
        if self.trust.is_rewind_open(now):
            return OPEN_WAIT_SECONDS
        if self.is_through_cache:
            return CACHED_SECONDS
        longest = FILTERED_WAIT_SECONDS if self.doubt is Doubt.FILTERED else UNCACHED_SECONDS
        until = self.trust.wary_until if self.is_past_stream else self.cache_at
        return max(1.0, min(longest, until - now))
