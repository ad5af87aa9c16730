"""The probe of HAProxy's abilities, once for each worker and backend."""

import time
from collections.abc import Iterable, Mapping, Sequence

import attrs

from hapsync.config.schema import Config
from hapsync.haproxy.capabilities import QUIET_PROBE, probe_command, scaling_of, version_of
from hapsync.haproxy.cfg import Section, default_server_words, parse_sections, stick_tables
from hapsync.haproxy.commands import Refusal, is_there
from hapsync.haproxy.dangers import fatal_addition, takes_servers
from hapsync.haproxy.running_cfg import read_in_force
from hapsync.haproxy.show import with_scaling
from hapsync.haproxy.socket import RuntimeSession
from hapsync.model.changes import Create
from hapsync.model.server import Backend, HAProxyProcess, Observed, Scaling
from hapsync.text import shown

AGAIN_SECONDS = 5.0
"""The interval at which HAProxy's files are read again while they are not conclusive."""
_UNKNOWN_DANGER = (
    "whether a server with `check` may be added is not known, HAProxy dies of one with `option external-check`: "
)


class Probe:
    """The scaling of each backend of the last worker that answered; another worker is probed anew."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pid = 0
        self._scaling: dict[str, Scaling] = {}
        self._why_unknown: set[str] = set()
        self._again_at = 0.0

    @property
    def scaling(self) -> Mapping[str, Scaling]:
        """The findings so far."""
        return self._scaling

    def use(self, config: Config) -> None:
        """Take another configuration; all backends are probed anew."""
        self._config = config
        self._pid = 0

    def know(self, pid: int, scaling: Mapping[str, Scaling]) -> None:
        """Take the findings of another probe about the worker `pid`, refusals included."""
        self._pid, self._scaling = pid, dict(scaling)

    def attach(self, session: RuntimeSession, process: HAProxyProcess, observed: Observed) -> Observed:
        """Return `observed`, a reading of the worker `process`, with the scaling of its backends.

        Raises RuntimeAPIError.
        """
        if process.pid != self._pid:
            self._pid, self._scaling, self._why_unknown = process.pid, {}, set()
        elif self._why_unknown and time.monotonic() >= self._again_at:
            self._scaling = {name: one for name, one in self._scaling.items() if name not in self._why_unknown}
            self._why_unknown = set()
        new = [
            backend
            for backend in observed.backends.values()
            if backend.name not in self._scaling and backend.name in self._config.backends and backend.slots
        ]
        if new:
            self._probe(session, process, new)
        return with_scaling(observed, self._scaling)

    def _probe(self, session: RuntimeSession, process: HAProxyProcess, backends: Iterable[Backend]) -> None:
        """Find out the scaling of `backends`.

        Before 3.4 the probe puts an alert into HAProxy's log, so only backends are probed whose lines in the file are
        not conclusive.

        Raises RuntimeAPIError.
        """
        version = version_of(process.version)
        files = read_in_force(session, process, self._config.haproxy.config)
        sections = parse_sections(files.text)
        given, tables = default_server_words(sections), stick_tables(sections)
        sure = takes_servers(sections) if version < QUIET_PROBE and not files.unknown else ()
        found: dict[str, Scaling] = {}
        asked: list[Backend] = []
        for backend in backends:
            name = backend.name
            danger = self._danger(sections, files.unknown, name)
            lines = given.get(name, ()), tables.get(name, ())
            found[name] = scaling_of(version, self._config.backends[name], *lines, danger)
            asked += [backend] if found[name].can_add and name not in sure else []
        replies = session.ask([probe_command(backend) for backend in asked])
        for backend, reply in zip(asked, replies, strict=True):
            if not is_there(reply):
                why = f"HAProxy says: {shown(reply.strip())}"
                found[backend.name] = attrs.evolve(found[backend.name], can_add=False, why=why, implied=())
        self._scaling |= found

    def _danger(self, sections: Sequence[Section], unknown: str, name: str) -> str:
        """Return why a server added to the backend `name` might kill HAProxy; empty without a danger."""
        if unknown:
            self._why_unknown.add(name)
            self._again_at = time.monotonic() + AGAIN_SECONDS
            return _UNKNOWN_DANGER + unknown
        return fatal_addition(sections, name, self._config.backends[name].server_options)

    def note(self, refusals: Iterable[Refusal]) -> None:
        """Note the backends that refused a server, until another worker answers."""
        for one in refusals:
            is_addition = isinstance(one.change, Create) and one.command.line.startswith("add server ")
            if is_addition and not is_there(one.reply):
                name, why = one.change.backend, f"HAProxy refused `add server`: {shown(one.reply)}"
                self._scaling[name] = attrs.evolve(self._scaling.get(name, Scaling()), can_add=False, why=why)
                self._why_unknown.discard(name)
