"""The promises of hapsync, one function each: its docstring is the sentence, its body says if a case keeps it.

The judge of diff, guard and plan: it calls nothing of theirs and reads the servers' raw fields.
"""

import math
import re
from collections.abc import Mapping

from hapsync.model.catalog import Doubt
from hapsync.model.changes import Change, Create, EndSessions, SetOverride
from hapsync.model.server import HAPROXY_NAME, MAX_WEIGHT, AdminState as Is, Observed
from hapsync.plan.moves import OF_OPERATOR, Case, is_dynamic, is_own, is_ready, is_slot

_HOST = re.compile(r"[0-9a-f:.]{2,45}")
_LINE = re.compile(r"[A-Za-z0-9_:./ ,=%()@+*\[\]-]{1,1024}")
_REST_SECONDS = 3


def nothing_while_stopped(case: Case) -> bool:
    """Nothing is changed while frozen, while observing, or while the state file is of another version."""
    return not (case.is_stopped and (case.moves or case.reweighed or case.is_new_worker))


def only_own_servers(case: Case) -> bool:
    """Only hapsync's own servers, in backends that it cares for, are changed; a foreign server never."""
    names = [*case.reweighed, *(one.name for one in case.moves)]
    if not all(map(is_own, names)) or not {one.name for one in case.have.foreign}.isdisjoint(names):
        return False
    if case.want is None and (case.reweighed or not all(isinstance(one.change, OF_OPERATOR) for one in case.moves)):
        return case.is_new_worker
    return case.is_new_worker or all((one.before is None) is isinstance(one.change, Create) for one in case.moves)


def only_plain_values(case: Case) -> bool:
    """No name, address, port or weight outside the whitelist reaches a command or haproxy.cfg."""
    weights = [*case.reweighed.values(), *(one.weight for one in case.moves)]
    addresses = [one.address for one in case.effects.given_away if one.admin and one.address]
    return (
        HAPROXY_NAME.fullmatch(case.name) is not None
        and 0 <= min(weights, default=0) <= max(weights, default=0) <= MAX_WEIGHT
        and all(_HOST.fullmatch(one.host) and 0 < one.port < 1 << 16 for one in addresses)
    )


def only_given_addresses(case: Case) -> bool:
    """No server gets traffic at an address that neither Consul nor the fallback list gave its backend."""
    entering = case.effects.entering
    return not entering or case.given >= {one.address for one in entering}


def no_busy_server_given_away(case: Case) -> bool:
    """No server that may be in use gets another address, and none is deleted before it is idle and unwanted."""
    for one in () if case.is_new_worker else case.effects.given_away:  # nothing runs on a new worker
        was, is_fit = one.before, is_slot(one.name)
        if was is not None and one.admin is None:
            is_unwanted = was.address in case.twice or was.address not in case.listed
            is_idle = was.load is not None and was.since_seconds >= _REST_SECONDS
            is_fit = is_dynamic(was.name) and is_idle and is_unwanted
        if was is not None and (one.was_in_use or not is_fit):
            return False
    return True


def only_overdue_sessions_ended(case: Case) -> bool:
    """Sessions are ended only on a server that left, after drain_seconds, and on an answer without a doubt."""
    want, ended = case.want, [one.before for one in case.moves if isinstance(one.change, EndSessions)]
    return not ended or all(
        was is not None
        and want is not None
        and (was.admin is Is.MAINT and was.address not in case.listed)
        and (want.doubt is None and not want.is_backwards and 0 < want.drain_seconds <= was.since_seconds)
        for was in ended
    )


def no_server_leaves_on_a_doubt(case: Case) -> bool:
    """No server leaves on an answer that is in doubt, nor while its service is gone or not back whole."""
    want, caution = case.want, case.caution
    if want is None or caution.is_released or not case.leaving:
        return True
    is_there = bool(want.servers or want.quarantined or want.other_tags)
    is_proven = not caution.is_refilling and (caution.has_refilled or not want.is_backwards)
    if want.doubt is None and is_there and is_proven:
        return True
    return all(one.was_at in case.staying or (one.is_out and one.was_at in caution.taken) for one in case.leaving)


def capacity_stays_above_its_floor(case: Case) -> bool:
    """No removal leaves less capacity than min_ready, nor less than max_loss_fraction lets be lost in the window."""
    caution = case.caution
    if caution.is_released or not case.leaving:
        return True
    share = max(caution.peak, len(case.capacity)) * (1 - caution.max_loss_fraction)
    floor = max(caution.min_ready, math.ceil(round(share, 9)))
    return len(case.capacity & case.serving) >= min(len(case.capacity - case.overridden), floor)


def capacity_in_before_out(case: Case) -> bool:
    """Capacity goes in before any goes out, and where slots are short half of what should serve stays."""
    if case.is_new_worker or not case.leaving:
        return True
    before, after = case.count_ready()
    return not case.effects.is_out_before_in and after >= min(before, math.ceil((case.wanted_if_short or 0) / 2))


def operators_have_the_last_word(case: Case) -> bool:
    """A server that an operator put in maint or drain stays so until an operator releases it."""
    for one in case.effects.overriding:
        at, to = one.was_at, one.change.admin if isinstance(one.change, SetOverride) else None
        if at is None or at not in case.overrides:
            return False
        if one.change is not None and not (isinstance(one.change, OF_OPERATOR) and case.overrides[at] is to):
            return False
    return not case.overridden or case.overridden.isdisjoint(case.given_traffic)


def fallback_only_where_nothing_serves(case: Case) -> bool:
    """The fallback list lets nobody in while others serve."""
    is_fallback = case.want is not None and case.want.doubt is Doubt.FALLBACK and not case.caution.is_released
    return case.is_new_worker or not is_fallback or case.up <= case.listed or not case.effects.entering


def command_says_its_change(change: Change, line: str) -> bool:
    """A command is one line of the whitelist, and names exactly the server and the address of its change."""
    words, where, address = line.split(" "), f"{change.backend}/{change.server}", change.address
    if not _LINE.fullmatch(line) or (where not in words and words[0] != "clear"):
        return False
    if words[0] == "set" and "addr" in words and address is not None:  # `addr` is a word of server_options, too
        return words[-4:] == ["addr", address.host, "port", str(address.port)]
    return words[0] != "add" or words[3:4] == [str(address)]


def emptied(observed: Observed, enabled: Mapping[str, int]) -> tuple[str, ...]:
    """No reload leaves a backend that serves without an enabled server."""
    return tuple(
        name
        for name, have in sorted(observed.backends.items())
        if not enabled.get(name) and any(is_ready(one) for one in (*have.slots, *have.foreign))
    )


PROMISES = (
    *(nothing_while_stopped, only_own_servers, only_plain_values, only_given_addresses, no_busy_server_given_away),
    *(only_overdue_sessions_ended, no_server_leaves_on_a_doubt, capacity_stays_above_its_floor),
    *(capacity_in_before_out, operators_have_the_last_word, fallback_only_where_nothing_serves),
)
