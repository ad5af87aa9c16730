"""Foreign servers that a new haproxy.cfg lacks, and the guard's decision on a reload without them.

hapsync never touches a foreign server, but a worker started from another file may lack it. The loss of a ready
foreign server counts like that of one of hapsync's own.
"""

import re
from collections.abc import Iterable, Sequence

import attrs

from hapsync.errors import WouldLose
from hapsync.haproxy.cfg import Line, is_foreign_line, server_lines
from hapsync.model.server import Address, Backend, Observed, Server
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.guard import Caution, Cautions, distrust, first_checked
from hapsync.plan.target import TargetState
from hapsync.text import plural, shown

_VARIABLE = re.compile(r"\$(?:\{[^}]*\}|\w+)")
"""An environment variable within a word (configuration manual, section 2.3)."""
_LISTED = 5


@attrs.frozen
class Loss:
    """The ready foreign servers of one backend that a new file lacks; `serving` servers serve there now.

    `deferred` is the reason why the servers must not go, None where they may. `is_doubted`: the reason is a doubt of
    a reading.
    """

    backend: str
    servers: tuple[Server, ...]
    serving: int
    deferred: str | None = None
    is_doubted: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each server."""
        return tuple(f"{self.backend}/{_words(server)}" for server in self.servers)

    def __str__(self) -> str:
        names = ", ".join(_words(server) for server in self.servers[:_LISTED])
        more = f" and {len(self.servers) - _LISTED} more" if len(self.servers) > _LISTED else ""
        return (
            f"backend {self.backend}: {plural(len(self.servers), 'ready server')} of {self.serving} that serve "
            f"{'has' if len(self.servers) == 1 else 'have'} no line in the template and no ready instance in Consul: "
            f"{names}{more}"
        )


def losses(
    observed: Observed, text: str, target: TargetState, wanted: Desired, cautions: Cautions
) -> tuple[Loss, ...]:
    """Return the ready foreign servers in `observed` that a HAProxy started with `text` would lack, by backend.

    `text` has the slots of `target`. A server stays if the text has a line of its name, or if the target has a ready
    server on its address.
    """
    lines = server_lines(text)
    found = (
        _loss(
            have,
            _names(lines.get(name, ())),
            target.backends.get(name, Backend(name)),
            wanted.backends.get(name),
            cautions.get(name, Caution()),
        )
        for name, have in sorted(observed.backends.items())
        if have.foreign
    )
    return tuple(loss for loss in found if loss is not None)


def refuse(lost: Sequence[Loss]) -> None:
    """Raise WouldLose where some servers in `lost` must not go."""
    deferred = [loss for loss in lost if loss.deferred is not None]
    if not deferred:
        return
    whats = "; ".join(f"{loss}; {loss.deferred}" for loss in deferred)
    raise WouldLose(
        f"{whats}; nothing was changed: register them in Consul, or keep their `server` lines in the template beside "
        f"the servers(), or {_way_on(deferred)}",
        {loss.backend: frozenset(server.name for server in loss.servers) for loss in deferred},
    )


def _way_on(deferred: Sequence[Loss]) -> str:
    """Return the operator's remedies for `deferred`; a release is no remedy while a reading is in doubt."""
    sure = [loss.backend for loss in deferred if not loss.is_doubted]
    if not sure:
        return "wait until Consul is trusted again"
    agents = f"release them alone with `hapsync release {sure[0]}`"
    if len(sure) < len(deferred):
        return agents
    return f"{agents} (without an agent `hapsync apply --force`, which makes all deferred changes)"


def _loss(
    have: Backend, named: Sequence[re.Pattern[str]], planned: Backend, want: DesiredBackend | None, caution: Caution
) -> Loss | None:
    stays = {slot.address for slot in planned.slots if slot.can_serve}
    gone = [
        server
        for server in have.foreign
        if server.can_serve and server.address not in stays and not any(one.fullmatch(server.name) for one in named)
    ]
    if not gone:
        return None
    # The servers that HAProxy can send to now, by address, or by name without a known address; newcomers do not
    # count.
    foreign: dict[Address | str, list[Server]] = {}
    for server in have.foreign:
        if server.serves:
            foreign.setdefault(server.address or server.name, []).append(server)
    own = {address for address in first_checked(have) if address is not None}
    before = own | set(foreign)
    after = {one for one in before if one in stays or any(server not in gone for server in foreign.get(one, ()))}
    lost = [one for one in gone if one.serves and one.name not in caution.let_go]
    deferred, is_doubted = _why_deferred(want, caution, len(before), len(after)) if lost else (None, False)
    return Loss(have.name, tuple(gone), len(before), deferred, is_doubted)


def _why_deferred(want: DesiredBackend | None, caution: Caution, before: int, after: int) -> tuple[str | None, bool]:
    """Return why servers must not go, None where they may, and whether the reason is a doubt of a reading."""
    if want is None:
        return "its service could not be read", True
    if (doubt := distrust(want, caution)) is not None:
        return doubt.value, True
    floor = caution.floor(before)
    return f"{after} would be left, and the guard keeps {floor}" if after < floor else None, False


def _names(lines: Iterable[Line]) -> Sequence[re.Pattern[str]]:
    """Return the possible names of the enabled foreign servers on `lines`."""
    enabled = [line for line in lines if "disabled" not in line.words]
    return [
        *(re.compile(_name(line.words[1])) for line in enabled if is_foreign_line(line)),
        *(re.compile(rf"{_name(line.words[1])}[0-9]+") for line in enabled if line.begins("server-template")),
    ]


def _name(word: str) -> str:
    return ".*".join(map(re.escape, _VARIABLE.split(word)))  # a variable may have any value


def _words(server: Server) -> str:
    where = f" {server.address}" if server.address is not None else ""
    return f"{shown(server.name)}{where}{'' if server.is_up else ' (down now)'}"
