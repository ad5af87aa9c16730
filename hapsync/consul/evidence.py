"""How far an answer of Consul may be believed: what its headers say, and how much it would take away.

Consul answers 200 with an empty list where a token lost its rights, and with an old list where its servers are away.
Both look like a true answer, so nothing is taken away before the evidence is good.
"""

import math
import re
from collections.abc import Mapping

import attrs

from hapsync.model.catalog import Doubt, Reading
from hapsync.model.server import Address, CheckStatus

MAX_AGE_SECONDS = 30.0
"""An answer from the agent's cache is too old when the agent lost its servers longer ago."""
MAX_LAST_CONTACT_MS = 10_000.0
"""An answer is too old when the server that gave it heard of its leader longer ago."""
LIVE_AGE_SECONDS = 1.0
"""From this age on the agent's cache is out of touch with the servers; 0 is what it says while it is live."""
WARY_SECONDS = 60.0
"""For so long after Consul's state went back, or its servers were away, no streamed news is believed on its own.

Agents of 1.14.11 gave the old state out of their streams for 0.7 s after the servers had lost theirs (measured).
"""
MAX_LOSS_FRACTION = 0.3
MIN_LOSS = 2
_SERVING = frozenset({CheckStatus.PASSING, CheckStatus.WARNING})


@attrs.frozen
class Finding:
    """One answer: what it says of the service, and what speaks against it.

    `reading` carries no doubt of its own. `age_seconds` is how long the agent's cache was out of touch, 0 without it.
    `is_streamed`: it came out of the agent's view of a stream. `is_early`: nothing is new, and yet Consul, past the
    agent's cache, ended the blocking query long before its time, as it does when a snapshot is restored.
    """

    reading: Reading
    index: int
    doubt: Doubt | None
    is_cached: bool
    age_seconds: float
    is_streamed: bool = False
    is_early: bool = False

    @property
    def is_behind(self) -> bool:
        """It comes from a cache that is out of touch with the servers."""
        return self.age_seconds >= LIVE_AGE_SECONDS


def evidence(headers: Mapping[str, str], is_cached: bool) -> Doubt | None:  # noqa: FBT001
    """Return what speaks against an answer with these `headers` (names in lower case), None when nothing does.

    `is_cached`: it came from the agent's cache, which repeats the headers of its last fetch. So `Age` counts there,
    and the last contact does not; a known leader says nothing, but that there was none says what the fetch was worth
    (measured with 1.8: what it fetched without a quorum it gives with `Age: 0` and no leader). With streaming
    there is no word of a leader: 1.20 sends `X-Consul-KnownLeader: false` and a last contact of 0 with every answer
    (measured), others may leave them out; absent is not bad. `X-Consul-Results-Filtered-By-ACLs` is sent since 1.11.
    (Consul's API documentation, features/caching and features/consistency.)
    """
    is_filtered = headers.get("x-consul-results-filtered-by-acls", "false").lower()
    has_leader = "true" if is_streamed(headers) else headers.get("x-consul-knownleader", "true").lower()
    if is_filtered == "true":
        return Doubt.FILTERED
    if has_leader == "false":
        return Doubt.NO_LEADER
    if (is_filtered, has_leader) != ("false", "true"):
        return Doubt.STALE
    if is_cached:
        return Doubt.STALE if age_seconds(headers) > MAX_AGE_SECONDS else None
    return Doubt.STALE if _number(headers.get("x-consul-lastcontact")) > MAX_LAST_CONTACT_MS else None


def age_seconds(headers: Mapping[str, str]) -> float:
    """Return how long the agent's cache was out of touch when it answered; infinite where it makes no sense."""
    return _number(headers.get("age"))


def is_streamed(headers: Mapping[str, str]) -> bool:
    """Return whether an answer with these `headers` came from the agent's view of a stream of events (since 1.10).

    Streamed answers never say that the token may not read all of it, nor that there is no leader, and an agent that
    lost its stream gives the old content with an age of 0 (measured with 1.14.11).
    """
    return headers.get("x-consul-query-backend", "").lower() == "streaming"


def loses(before: Reading | None, now: Reading) -> bool:
    """Return whether an address that served by `before` does not by `now`."""
    return bool(_serving(before) - _serving(now))


def loses_silently(before: Reading | None, now: Reading, trusted_index: int) -> bool:
    """Return whether an address that served by `before`, read at Consul's `trusted_index`, is gone without a word.

    A check of its instance that turned critical after that index is one: no older state has it.
    """
    told = {one.address for one in now.instances if one.critical_index > trusted_index}
    return bool(_serving(before) - _serving(now) - told)


def is_rewritten(before: Reading | None, now: Reading, trusted_index: int) -> bool:
    """Return whether `now` cannot have followed `before`, a trusted reading as of Consul's index `trusted_index`.

    It cannot where an instance is new though it was last registered at or before that index, where one was created
    anew at an index that had gone by, or where its last registration is an older one. So a snapshot looks that was
    restored into a running Consul, once its index has moved on: the log goes on, only the content goes back (measured
    with 1.8.7 and 1.14.11). The token may also have gained rights; then there is more than before, and nothing lost.
    """
    if before is None:
        return False
    known = {(one.node, one.instance_id): one for one in before.instances}
    left_out = {(one.node, one.instance_id) for one in before.quarantined}
    for one in now.instances:
        was = known.get((one.node, one.instance_id))
        if was is None:
            if 0 < one.modify_index <= trusted_index and (one.node, one.instance_id) not in left_out:
                return True
        elif one.modify_index and was.create_index:
            is_made_anew = one.create_index != was.create_index and one.create_index <= trusted_index
            if is_made_anew or one.modify_index < was.modify_index:
                return True
    return False


def needs_confirming(before: Reading | None, now: Reading, doubt: Doubt | None) -> bool:
    """Return whether `now` takes more away than its evidence is good for; `doubt` is what speaks against it."""
    return loses_much(before, now) or (doubt is not None and bool(_serving(before) - _serving(now)))


def loses_much(before: Reading | None, now: Reading) -> bool:
    """Return whether `now` takes away so much of `before`, a trusted reading, that Consul is asked twice.

    None is a service that was never read. Empty always counts, unless it was empty before. What is left out or no
    longer passing or warning counts as taken away; an address that moved to another instance does not.
    """
    if not now.instances:
        return before is None or before.doubt is not None or bool(before.instances)
    served = _serving(before)
    lost = len(served - _serving(now))
    return lost >= MIN_LOSS and lost > MAX_LOSS_FRACTION * len(served)


def same_content(one: Reading, other: Reading) -> bool:
    """Return whether both readings say the same of their service, however far each is trusted."""
    return (one.instances, one.quarantined, one.namesakes) == (other.instances, other.quarantined, other.namesakes)


@attrs.frozen
class Trust:
    """The last `reading` of a service without a doubt, its Consul `index`, and what may have gone back since.

    Until `wary_until` no streamed news is believed on its own. Until `rewound_until` a snapshot may have been
    restored: then Consul's index goes on and only its content goes back, so what is missing is taken for older state.
    `is_unheard`: the leader did not say since whether one was. All times are monotonic seconds.
    """

    reading: Reading | None = None
    index: int = 0
    wary_until: float = -math.inf
    rewound_until: float = -math.inf
    is_unheard: bool = False

    def warned(self, now: float, *, is_rewound: bool) -> "Trust":
        """Take note that Consul's state may have gone back; `is_rewound`: a snapshot may have been restored."""
        wary_until = now + WARY_SECONDS
        if not is_rewound:
            return attrs.evolve(self, wary_until=wary_until)
        return attrs.evolve(self, wary_until=wary_until, rewound_until=wary_until, is_unheard=True)

    def is_wary(self, now: float) -> bool:
        """Consul's state may just have gone back."""
        return now < self.wary_until

    def is_rewind_open(self, now: float) -> bool:
        """A snapshot may just have been restored and cost something, and the leader was not heard since."""
        has_any = self.reading is not None and bool(self.reading.instances)
        return has_any and self.is_unheard and now < self.rewound_until

    def heard(self, leader: Finding, now: float) -> "Trust":
        """Take note of what the leader says.

        The leader restores first. Where it lacks nothing of what was trusted, whatever is missing later left in the
        ordinary way: the query may have ended because a server was stopped.
        """
        if leader.doubt not in {None, Doubt.FILTERED}:
            return self
        is_whole = leader.doubt is None and not self.goes_back(leader, now)
        return attrs.evolve(self, is_unheard=False, rewound_until=-math.inf if is_whole else self.rewound_until)

    def is_older(self, found: Finding, now: float) -> bool:
        """Return whether the content of `found` went back though its index did not."""
        if is_rewritten(self.reading, found.reading, self.index):
            return True
        return now < self.rewound_until and loses_silently(self.reading, found.reading, self.index)

    def goes_back(self, found: Finding, now: float) -> bool:
        """Return whether `found`, beyond doubt, shows that Consul's state went back."""
        return found.doubt is None and (found.index < self.index or self.is_older(found, now))

    def is_news(self, found: Finding, now: Reading | None) -> bool:
        """Return whether `found`, read past the cache, says anything else than `now`, or speaks against it."""
        if now is None or found.doubt is not None:
            return True
        return found.index < self.index or not same_content(found.reading, now)

    def taken(self, found: Finding, now: float) -> "Trust":
        """Trust `found` unless there is a doubt."""
        trust = self.warned(now, is_rewound=False) if self.goes_back(found, now) else self
        return trust if found.doubt is not None else attrs.evolve(trust, reading=found.reading, index=found.index)


def _serving(reading: Reading | None) -> frozenset[Address]:
    if reading is None:
        return frozenset()
    return frozenset(instance.address for instance in reading.instances if instance.status in _SERVING)


def _number(text: str | None) -> float:
    if text is None:
        return 0.0
    return float(text) if re.fullmatch(r"[0-9]{1,15}", text) else math.inf
