"""The guard's history of a backend, as values: its capacity within the window, a refill, flapping instances.

Times are seconds of one clock, which never jumps and runs while the machine sleeps; the caller reads it.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from hapsync.model.overrides import Refill
from hapsync.model.server import Address, Backend
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.guard import capacity

Peaks = tuple[tuple[float, int], ...]
"""Pairs of a time and a capacity seen then; the newest last, each capacity lower than the one before."""
FIRST_DAMPING_SECONDS = 2.0
LONGEST_DAMPING_SECONDS = 60.0
"""The default of the longest damping."""
FORGET_FLAPS_SECONDS = 300.0
"""The falls of an instance are forgotten after this time without a fall."""


def seen(peaks: Peaks, now_seconds: float, amount: int, window_seconds: float) -> Peaks:
    """Return `peaks` with the capacity `amount` seen now, and without capacities from before the window."""
    kept = tuple((at, one) for at, one in peaks if one > amount and now_seconds - window_seconds <= at <= now_seconds)
    return (*kept, (now_seconds, amount))


def peak(peaks: Peaks, now_seconds: float, window_seconds: float) -> int:
    """Return the most capacity seen within the window; 0 if none was."""
    return max((one for at, one in peaks if at >= now_seconds - window_seconds), default=0)


def refilled(
    refill: Refill | None,
    want: DesiredBackend,
    have: Backend,
    now_seconds: float,
    *,
    window_seconds: float,
    max_loss_fraction: float,
) -> Refill | None:
    """Return the refill of `want` after the service vanished or Consul's state went back; None without a refill.

    The refill is over when as many instances should serve as served in HAProxy at its beginning. The refill is also
    over when no more came for a whole window, and the necessary fraction of the servers still up is back. An instance
    with other tags than the backend's counts as back: it serves no more, but has not vanished.
    """
    serving = want.serving + len({slot.address for slot in have.ready} & want.other_tags)
    if refill is not None and refill.is_over and not want.is_backwards:
        refill = None  # this reading is a new one, and may be a new loss
    if refill is None:
        was = capacity_or_ready(have)
        if not want.is_backwards and (not want.is_gone or was == 0):
            return None
        refill = Refill(was=was, since=now_seconds, changed=now_seconds, serving=serving)
    if serving != refill.serving:
        refill = attrs.evolve(refill, serving=serving, changed=now_seconds)
    is_quiet = now_seconds - refill.changed >= window_seconds
    # Servers that failed HAProxy's checks since then need not come back.
    lives = min(refill.was, max(1, capacity(have)))
    is_most = serving > 0 and serving >= round(lives * (1 - max_loss_fraction), 9)  # 10 * (1 - 0.7) > 3
    is_over = not want.is_gone and (serving >= refill.was or (is_quiet and is_most))
    if want.is_backwards:  # the mark stays on the reading, so the end is remembered
        return attrs.evolve(refill, is_over=refill.is_over or is_over)
    return None if is_over else refill


def capacity_or_ready(have: Backend) -> int:
    """Return the capacity by first checks or, before any has passed, by the servers' states."""
    return max(capacity(have), len({slot.address for slot in have.ready}))


@attrs.frozen
class Flap:
    """A flapping instance: the number of its falls, the time of the last one, and the end of its damping."""

    falls: int
    fell_seconds: float
    until_seconds: float = 0.0


Key = tuple[str, Address]


@attrs.frozen
class Flaps:
    """The last desired state of each backend, and its instances that fell lately."""

    known: Mapping[str, DesiredBackend] = attrs.field(factory=dict)
    flaps: Mapping[Key, Flap] = attrs.field(factory=dict)

    def noted(
        self, desired: Desired, now_seconds: float, longest_seconds: Mapping[str, float] = MappingProxyType({})
    ) -> "Flaps":
        """Return this value after a new `desired`; `longest_seconds` limits the damping, by backend.

        The first return is never delayed. Each later return waits twice as long as the one before, from 2 s on, and
        the wait begins anew at each return. A change of tags is neither a fall nor a return.
        """
        changed = {name: want for name, want in desired.backends.items() if self.known.get(name) is not want}
        if not changed:
            return self
        flaps = {
            key: flap for key, flap in self.flaps.items() if now_seconds - flap.fell_seconds < FORGET_FLAPS_SECONDS
        }
        for name, want in changed.items():
            known = self.known.get(name)
            if known is None:
                continue
            before, now = _serving(known), _serving(want)
            for address in before - now - want.other_tags:
                old = flaps.get((name, address))
                flaps[name, address] = Flap((old.falls if old else 0) + 1, now_seconds)
            for address in now - before - known.other_tags:
                flap = flaps.get((name, address))
                if flap is not None:
                    longest = longest_seconds.get(name, LONGEST_DAMPING_SECONDS)
                    until = now_seconds + min(longest, _damping_seconds(flap.falls))
                    flaps[name, address] = attrs.evolve(flap, until_seconds=until)
        return Flaps({**self.known, **changed}, flaps)

    def damped(self, name: str, now_seconds: float) -> frozenset[Address]:
        """Return the damped addresses of backend `name`, whose return has to wait."""
        return frozenset(
            address
            for (backend, address), flap in self.flaps.items()
            if backend == name and flap.until_seconds > now_seconds
        )

    def only(self, names: Iterable[str]) -> "Flaps":
        """Return the part about the backends in `names`."""
        kept = set(names)
        return Flaps(
            {name: one for name, one in self.known.items() if name in kept},
            {key: flap for key, flap in self.flaps.items() if key[0] in kept},
        )


def _serving(want: DesiredBackend) -> set[Address]:
    return {server.address for server in want.servers if server.needs_slot}


def _damping_seconds(falls: int) -> float:
    if falls < 2:  # noqa: PLR2004 (everybody may fall once)
        return 0.0
    return FIRST_DAMPING_SECONDS * 2.0 ** min(falls - 2, 20)
