"""The text of haproxy.cfg: for a HAProxy that starts now, and for a reload (the candidate)."""

import os
from collections.abc import Iterable

import attrs

from hapsync.agent.settings import Settings, free_slots
from hapsync.errors import BrokenPromise, ConfigError, WouldEmpty
from hapsync.haproxy.cfg import (
    enabled_servers,
    observed_from_file,
    parse_sections,
    skeleton,
    stats_sockets,
    stick_tables,
)
from hapsync.haproxy.foreign import Loss, losses, refuse
from hapsync.haproxy.render import labels_of, render
from hapsync.haproxy.show import with_scaling
from hapsync.model.changes import Deferred, Reason
from hapsync.model.server import Observed, Scaling
from hapsync.plan.assessment import Rules, defect_line, guarded
from hapsync.plan.desired import Desired
from hapsync.plan.diff import diff
from hapsync.plan.guard import Cautions
from hapsync.plan.judge import broken_by_target
from hapsync.plan.promises import emptied
from hapsync.plan.target import TargetState, target_grown, target_now
from hapsync.system.files import read_text_or_none
from hapsync.text import quoted


@attrs.frozen
class Seen:
    """A reading of all configured backends, their desired state, its `rules`, and the deferred changes."""

    observed: Observed
    deferred: tuple[Deferred, ...] = ()
    desired: Desired = attrs.field(factory=lambda: Desired({}))
    rules: Rules = attrs.field(factory=Rules)


@attrs.frozen
class Candidate:
    """A configuration for a reload: its text, and the target that the new worker must show.

    `lost` are the ready foreign servers that the new worker would lack.
    """

    text: str
    target: TargetState
    lost: tuple[Loss, ...] = ()


def with_filed(settings: Settings, seen: Seen) -> Seen:
    """Return `seen` with the file's servers for each unreadable backend, and with all changes there deferred.

    The state of such a backend is unknown, so its part of the file has to stay.
    """
    observed = seen.observed
    names = sorted(set(observed.unread) - set(observed.backends))
    if not names:
        return seen
    text = read_text_or_none(settings.config.haproxy.config) or ""
    filed = observed_from_file(text, names, with_foreign=True)
    kept = (Deferred(change, Reason.UNREAD) for change in diff(seen.desired.only(names), filed).changes)
    both = attrs.evolve(observed, backends={**observed.backends, **filed.backends})
    return attrs.evolve(seen, observed=both, deferred=(*seen.deferred, *kept))


def on_file(settings: Settings) -> Observed:
    """Return the servers that a HAProxy started with the present file would show."""
    return _filed(settings, read_text_or_none(settings.config.haproxy.config))


def _filed(settings: Settings, text: str | None) -> Observed:
    return observed_from_file(text or "", tuple(settings.config.backends))


def seen_on_file(observed: Observed, wanted: Desired, cautions: Cautions) -> Seen:
    """Return `observed`, the servers of a HAProxy started with the file, with the changes deferred there."""
    return Seen(observed, guarded(observed, wanted, cautions).deferred, wanted, Rules(cautions))


def judged(target: TargetState, seen: Seen) -> TargetState:
    """Return `target`, made of `seen`; raises BrokenPromise where a HAProxy started with it would break a promise."""
    defects = broken_by_target(target, seen.rules.facts(seen.desired, seen.observed))
    if defects:
        raise BrokenPromise("; ".join(map(defect_line, defects)))
    return target


def initial_target(seen: Seen) -> TargetState:
    """Return the target for the start of a HAProxy: the slots of `seen`, and more where they do not suffice."""
    wanted = seen.desired
    target = target_now(wanted, seen.observed, seen.deferred)
    short = [shortage.backend for shortage in diff(wanted, target.as_observed()).shortages]
    return target_grown(wanted, seen.observed, short, seen.deferred) if short else target


def empty_slots(settings: Settings, target: TargetState) -> TargetState:
    """Return `target` with as many free slots as the key `slots` says for each backend without any slot."""
    free = free_slots(settings.config).backends
    return TargetState({name: backend if backend.slots else free[name] for name, backend in target.backends.items()})


def is_applied(settings: Settings, current: str | None) -> bool:
    """Return whether the file `current` was made from these settings, whatever slots it has.

    While HAProxy answers, new settings reach the file only by the reload that makes them live. The result is then
    true of the running HAProxy, too.

    Raises ConfigError when the template cannot be used.
    """
    if current is None:
        return False
    anew = render(settings.template, free_slots(settings.config, 1), settings.config, {})
    return skeleton(anew) == skeleton(current)


def new_text(settings: Settings, seen: Seen, *, is_down: bool) -> str | None:
    """Return the text that the file should have, None where nothing has to be written.

    Nothing is written where the file has this text already. Nothing is written, too, where HAProxy lacks a backend:
    the reload that adds the backend writes the file. `is_down`: no HAProxy runs, and `seen` are the file's servers.

    Raises ConfigError, BrokenPromise, and WouldLose where HAProxy is away and its next start would lack foreign
    servers of the file.
    """
    current = read_text_or_none(settings.config.haproxy.config)
    if is_down:
        # Render twice: removals that wait for replacements are made in the second text, once the first has these.
        text = _to_start_with(settings, seen, _to_start_with(settings, seen, current))
        refuse(_lost_on_file(settings, seen, current, text))
    else:
        target = judged(target_now(seen.desired, seen.observed, seen.deferred), seen)
        text = _rendered_whole(settings, target, seen, current)
    return text if text != current else None


def _to_start_with(settings: Settings, seen: Seen, current: str | None) -> str | None:
    then = seen_on_file(_filed(settings, current), seen.desired, seen.rules.cautions)
    return _rendered_whole(settings, judged(initial_target(then), then), then, current)


def _lost_on_file(settings: Settings, seen: Seen, current: str | None, text: str | None) -> tuple[Loss, ...]:
    """Return the foreign servers of a HAProxy started with `current` that one started with `text` would lack."""
    if not current or not text or text == current:
        return ()
    before = observed_from_file(current, tuple(settings.config.backends), with_foreign=True)
    after = target_now(Desired({}), _filed(settings, text))
    return losses(before, text, after, seen.desired, seen.rules.cautions)


def _rendered_whole(settings: Settings, target: TargetState, seen: Seen, current: str | None) -> str | None:
    """Return the file's text with `target`; `current` where HAProxy lacks a backend."""
    if not all(backend.exists for backend in target.backends.values()):
        return current
    return _rendered(settings, target, seen, current)


def candidate_grown(settings: Settings, seen: Seen, short: Iterable[str]) -> Candidate:
    """Return the candidate of a reload: the settings, and slots for everything that the backends in `short` lack.

    Raises ConfigError, and WouldEmpty where it would leave a serving backend without a server.
    """
    wanted = seen.desired
    current = read_text_or_none(settings.config.haproxy.config)
    tables = {name: Scaling(tables=tables) for name, tables in stick_tables(parse_sections(current or "")).items()}
    observed = with_scaling(seen.observed, tables)
    target = empty_slots(settings, target_grown(wanted, observed, short, seen.deferred, lets_in=False))
    text = _rendered(settings, target, seen, current)
    for name in emptied(seen.observed, enabled_servers(text)):
        service = quoted(settings.config.backends[name].service)
        why = "has no instance that may serve" if name in wanted.backends else "could not be read"
        raise WouldEmpty(
            f"backend {name} serves now and would be left without a server, for service {service} {why} in Consul; "
            f"look at the service's name, the token and Consul itself"
        )
    unreachable = _unreachable_after(settings, current, text)
    if unreachable is not None:
        raise ConfigError(settings.template.name, (unreachable,))
    return Candidate(text, target, losses(seen.observed, text, target, wanted, seen.rules.cautions))


def _unreachable_after(settings: Settings, current: str | None, text: str) -> str | None:
    """Return why hapsync would lose HAProxy by a reload from the file `current` into `text`; None where it would not.

    The result is None, too, where `current` does not name the socket: another file of HAProxy's may name it.
    """
    now = list(map(os.path.realpath, stats_sockets(current or "")))
    then = list(map(os.path.realpath, stats_sockets(text)))
    path = settings.moved.config.haproxy.socket
    if os.path.realpath(settings.config.haproxy.socket) not in now or os.path.realpath(path) in then:
        return None
    return f"it has no `stats socket {path}`, where haproxy.socket looks for HAProxy; both must name the same"


def _rendered(settings: Settings, target: TargetState, seen: Seen, current: str | None) -> str:
    config = settings.config
    return render(settings.template, target, config, labels_of(seen.desired, current, config.backends))
