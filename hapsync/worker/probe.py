"""What the HAProxy at hand can do, found out once for each worker and backend."""

from collections.abc import Iterable, Mapping

import attrs

from hapsync.capabilities import means_of, probe_command, refused, version_of
from hapsync.changes import Create
from hapsync.config import Config
from hapsync.edge.files import read_text_or_none
from hapsync.edge.runtime_socket import RuntimeSession
from hapsync.model import HAProxyProcess, Means, Observed
from hapsync.observed import with_means
from hapsync.runtime import Refusal
from hapsync.sections import default_server_words, stick_tables


class Probe:
    """The means of each backend of the worker that answered last; another worker is probed anew."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pid = 0
        self._means: dict[str, Means] = {}

    @property
    def means(self) -> Mapping[str, Means]:
        """What is known by now."""
        return self._means

    def use(self, config: Config) -> None:
        """Go on with another configuration; everything is probed anew."""
        self._config = config
        self._pid = 0

    def attach(self, session: RuntimeSession, process: HAProxyProcess, observed: Observed) -> Observed:
        """Return `observed`, a reading of the worker `process`, with the means of its backends.

        Raises RuntimeAPIError.
        """
        if process.pid != self._pid:
            self._pid, self._means = process.pid, {}
        asked = [
            (backend.name, command)
            for backend in observed.backends.values()
            if backend.name not in self._means and backend.name in self._config.backends
            if (command := probe_command(backend)) is not None
        ]
        version = version_of(process.version)
        given, tables = self._read_file() if asked else ({}, {})
        replies = session.ask([command for _, command in asked])
        for (name, _), reply in zip(asked, replies, strict=True):
            config = self._config.backends[name]
            self._means[name] = means_of(version, config, reply, given.get(name, ()), tables.get(name, ()))
        return with_means(observed, self._means)

    def _read_file(self) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
        """Return what `default-server` lines give to each backend by the file, and its stick tables.

        Nothing where the file cannot be read.
        """
        try:
            text = read_text_or_none(self._config.haproxy.config) or ""
        except (OSError, ValueError):
            return {}, {}
        return default_server_words(text), stick_tables(text)

    def note(self, refusals: Iterable[Refusal]) -> None:
        """Remember which backends do not take servers after all, until another worker answers."""
        for one in refusals:
            if isinstance(one.change, Create) and one.command.line.startswith("add server "):
                found = refused(one.reply)
                if found is not None:
                    known = self._means.get(one.change.backend, found)
                    self._means[one.change.backend] = attrs.evolve(known, can_add=False, why=found.why)
