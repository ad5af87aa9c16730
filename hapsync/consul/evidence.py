"""The evidence in an answer of Consul: its headers, and the size of the loss that it would cause.

Consul answers 200 with an empty list to a token without rights, and with an old list while its servers are away. Both
look like a true answer, so no server is removed without good evidence.
"""

import math
import re
from collections.abc import Mapping

import attrs

from hapsync.model.catalog import Doubt, Reading
from hapsync.model.server import Address, CheckStatus

MAX_AGE_SECONDS = 30.0
"""An answer from the agent's cache is too old when the agent lost the servers longer ago than this."""
MAX_LAST_CONTACT_MS = 10_000.0
"""An answer is too old when its server last heard of the leader longer ago than this."""
LIVE_AGE_SECONDS = 1.0
"""From this `Age` on, the agent's cache is out of touch with the servers; a live cache says 0."""
WARY_SECONDS = 120.0
"""For so long after a rollback of Consul's state, or an absence of its servers, a stream is not followed, and a
streamed change needs confirmation.

Agents of 1.14.11 streamed the old state for 0.7 s after the servers had lost it (measured). After an absence of 20 s
an agent subscribed again as late as 16 s after the servers were back (measured), and gave the old content meanwhile.
Its pauses between two tries double up to 60 s, and up to twice as much is added to chance (agent/submatview and
lib/retry of 1.14.11: `MaxWait`, `Jitter`).
"""
REWOUND_SECONDS = 60.0
"""For so long after a snapshot may have been restored, a missing instance counts as an older state."""
MAX_LOSS_FRACTION = 0.3
MIN_LOSS = 2
_SERVING = frozenset({CheckStatus.PASSING, CheckStatus.WARNING})


@attrs.frozen
class Finding:
    """One answer: the reading of its service, and the doubt in it.

    `reading` carries no doubt of its own. `age_seconds` is the time since the agent's cache lost touch, 0 without a
    cache. `is_streamed`: the answer is from the agent's view of a stream. `is_early`: Consul itself, not the agent's
    cache, ended the blocking query long before its time, with nothing new. A restored snapshot has that effect.
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
        """The answer is from a cache that is out of touch with the servers."""
        return self.age_seconds >= LIVE_AGE_SECONDS


def evidence(headers: Mapping[str, str], is_cached: bool) -> Doubt | None:  # noqa: FBT001
    """Return the doubt about an answer with these `headers` (names in lower case); None without one.

    `is_cached`: the answer is from the agent's cache, which repeats the headers of its last fetch. `Age` then counts,
    and the last contact does not. A known leader proves nothing there, but a missing leader shows that the fetch was
    worthless: 1.8 gives an answer fetched without a quorum with `Age: 0` and no leader (measured). With streaming the
    headers never report the leader: 1.20 sends `X-Consul-KnownLeader: false` and a last contact of 0 with every
    answer (measured), and other versions may leave them out, so absent headers raise no doubt.
    `X-Consul-Results-Filtered-By-ACLs` exists since 1.11. (Consul's API documentation, features/caching and
    features/consistency.)
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
    """Return the seconds for which the agent's cache was out of touch; infinite for a header that makes no sense."""
    return _number(headers.get("age"))


def is_streamed(headers: Mapping[str, str]) -> bool:
    """Return whether an answer with these `headers` came from the agent's view of a stream of events (since 1.10).

    Streamed answers never report missing rights of the token, nor a missing leader. An agent that lost its stream
    gives the old content with an age of 0 (measured with 1.14.11).
    """
    return headers.get("x-consul-query-backend", "").lower() == "streaming"


def loses(before: Reading | None, now: Reading) -> bool:
    """Return whether an address serves in `before` and not in `now`."""
    return bool(_serving(before) - _serving(now))


def loses_silently(before: Reading | None, now: Reading, trusted_index: int) -> bool:
    """Return whether an address serves in `before`, read at Consul's `trusted_index`, and is gone without a cause.

    A check of its instance is a cause if it turned critical after this index, for no older state has it.
    """
    told = {one.address for one in now.instances if one.critical_index > trusted_index}
    return bool(_serving(before) - _serving(now) - told)


def is_rewritten(before: Reading | None, now: Reading, trusted_index: int) -> bool:
    """Return whether `now` cannot have followed `before`, a trusted reading as of Consul's index `trusted_index`.

    `now` cannot have followed in three cases: a new instance was last registered at or before that index, an instance
    was created anew at an earlier index, or the last registration of an instance is older. A snapshot restored into a
    running Consul has these marks once the index has moved on: the log goes on, and only the content goes back
    (measured with 1.8.7 and 1.14.11). The token may also have gained rights; then instances appear, and none is lost.
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
    """Return whether `now` removes more than its evidence allows; `doubt` is the doubt about it."""
    return loses_much(before, now) or (doubt is not None and loses(before, now))


def loses_much(before: Reading | None, now: Reading) -> bool:
    """Return whether `now` lacks so much of `before`, a trusted reading, that Consul is asked again.

    None stands for a service that was never read. An empty reading always counts, unless the one before was empty.
    Instances that are quarantined, or no longer passing or warning, count as lost; an address moved to another
    instance does not.
    """
    if not now.instances:
        return before is None or before.doubt is not None or bool(before.instances)
    served = _serving(before)
    lost = len(served - _serving(now))
    return lost >= MIN_LOSS and lost > MAX_LOSS_FRACTION * len(served)


def same_content(one: Reading, other: Reading) -> bool:
    """Return whether both readings have the same content, whatever doubt each has."""
    return (one.instances, one.quarantined, one.namesakes) == (other.instances, other.quarantined, other.namesakes)


@attrs.frozen
class Trust:
    """The last `reading` of a service without a doubt, its Consul `index`, and possible rollbacks since.

    Until `wary_until` a streamed change needs confirmation. Until `rewound_until` a snapshot may have been restored.
    A restore takes back Consul's content and not its index, so a missing instance then counts as older state.
    `is_unheard`: the leader has not said yet whether a snapshot was restored. All times are monotonic seconds.
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
        return attrs.evolve(self, wary_until=wary_until, rewound_until=now + REWOUND_SECONDS, is_unheard=True)

    def is_wary(self, now: float) -> bool:
        """Consul's state may have gone back a short time ago."""
        return now < self.wary_until

    def is_rewind_open(self, now: float) -> bool:
        """A snapshot restored a short time ago may have removed instances, and the leader has not answered since."""
        has_any = self.reading is not None and bool(self.reading.instances)
        return has_any and self.is_unheard and now < self.rewound_until

    def heard(self, leader: Finding, now: float) -> "Trust":
        """Take note of the leader's answer.

        The leader restores a snapshot first. If its answer has all trusted instances, later losses are ordinary ones,
        and the query ended for another reason, such as the stop of a server.
        """
        if leader.doubt not in {None, Doubt.FILTERED}:
            return self
        is_whole = leader.doubt is None and not self.goes_back(leader, now)
        return attrs.evolve(self, is_unheard=False, rewound_until=-math.inf if is_whole else self.rewound_until)

    def is_older(self, found: Finding, now: float) -> bool:
        """Return whether the content of `found` went back while its index did not."""
        if is_rewritten(self.reading, found.reading, self.index):
            return True
        return now < self.rewound_until and loses_silently(self.reading, found.reading, self.index)

    def goes_back(self, found: Finding, now: float) -> bool:
        """Return whether `found`, without a doubt, shows that Consul's state went back."""
        return found.doubt is None and (found.index < self.index or self.is_older(found, now))

    def is_news(self, found: Finding, now: Reading | None) -> bool:
        """Return whether `found`, read past the cache, differs from `now` or gives a reason to doubt it."""
        if now is None or found.doubt is not None:
            return True
        return found.index < self.index or not same_content(found.reading, now)

    def taken(self, found: Finding, now: float, *, is_backwards: bool) -> "Trust":
        """Trust `found` unless there is a doubt; `is_backwards`: it `goes_back`."""
        trust = self.warned(now, is_rewound=False) if is_backwards else self
        return trust if found.doubt is not None else attrs.evolve(trust, reading=found.reading, index=found.index)


def _serving(reading: Reading | None) -> frozenset[Address]:
    if reading is None:
        return frozenset()
    return frozenset(instance.address for instance in reading.instances if instance.status in _SERVING)


def _number(text: str | None) -> float:
    if text is None:
        return 0.0
    return float(text) if re.fullmatch(r"[0-9]{1,15}", text) else math.inf
