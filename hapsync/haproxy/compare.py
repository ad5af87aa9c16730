"""The comparison of a haproxy.cfg, or of a running HAProxy, with the target."""

from collections.abc import Iterable, Mapping

from hapsync.haproxy.cfg import observed_from_file
from hapsync.model.server import AdminState, Backend, Observed, Server
from hapsync.plan.target import TargetState


def says_the_same(text: str, target: TargetState) -> bool:
    """Return whether the haproxy.cfg `text` holds exactly the slots of `target`."""
    found = observed_from_file(text, target.backends).backends
    return all(
        _in_file(found[name].slots) == _in_file(backend.slots)
        for name, backend in target.backends.items()
        if backend.exists
    )


def _in_file(slots: Iterable[Server]) -> Mapping[str, tuple[object, ...]]:
    """Return the part of `slots` that a file can express: address, weight, and disabled or not."""
    return {slot.name: (slot.address, slot.weight, slot.admin is AdminState.READY) for slot in slots}


def shows(observed: Observed, target: TargetState) -> tuple[str, ...]:
    """Return the differences of `observed`, as far as it was read, from `target`, one line a server."""
    differences = []
    for backend in target.backends.values():
        if backend.name in observed.unread:
            continue  # its state is unknown
        have = {slot.name: slot for slot in observed.backends.get(backend.name, Backend(backend.name)).slots}
        for slot in backend.slots:
            shown = have.pop(slot.name, None)
            if shown is None:
                differences.append(f"{backend.name}/{slot.name} is missing")
            elif shown.address == slot.address and shown.is_led_by_agent:
                continue  # the agent sets the rest
            elif (shown.address, shown.admin, shown.weight) != (slot.address, slot.admin, slot.weight):
                differences.append(
                    f"{backend.name}/{slot.name} is {shown.address} {shown.admin.value} weight {shown.weight}, "
                    f"expected was {slot.address} {slot.admin.value} weight {slot.weight}"
                )
        differences += [f"{backend.name}/{name} was not expected there" for name in have]
    return tuple(differences)
