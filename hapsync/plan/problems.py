"""What keeps a backend of HAProxy from serving although nothing is due there, a line each, for people."""

from hapsync.model.server import Observed
from hapsync.plan.desired import Desired


def unread_lines(observed: Observed) -> list[str]:
    """Return which backends of HAProxy could not be read, and why, a line each."""
    return [f"backend {name} cannot be read: {why}" for name, why in sorted(observed.unread.items())]


def unserved(wanted: Desired, observed: Observed) -> list[str]:
    """Return the backends that send to nobody although Consul has servers for them, for hands or agents took all out.

    What somebody holds with `hapsync hold` or `drain` is known to be wanted, and is not counted.
    """
    lines = []
    for name, want in sorted(wanted.backends.items()):
        have = observed.backends.get(name)
        if have is None or any(one.can_serve for one in (*have.slots, *have.foreign)):
            continue
        overrides = wanted.overrides.get(name, {})
        due = {one.address for one in want.servers if one.needs_slot and one.weight > 0} - set(overrides)
        out = [slot for slot in have.slots if slot.address in due]
        overridden = [slot.name for slot in out if slot.is_overridden]
        by_agent = [slot.name for slot in out if slot.is_led_by_agent and slot.weight > 0]
        if overridden:
            lines.append(
                f"backend {name} has no server that can serve: {', '.join(overridden[:5])} in maint or drain by an "
                f"operator; if that was not meant, `hapsync release {name}/{overridden[0]}` and so on hands them "
                "to hapsync"
            )
        elif by_agent:
            lines.append(
                f"backend {name} has no server that can serve: the agents of {', '.join(by_agent[:5])} took them out"
            )
    return lines
