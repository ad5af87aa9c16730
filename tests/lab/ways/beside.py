"""Ways in which one HAProxy stays, and a program beside it, or none, keeps it in sync: `Beside`."""

from tests.harness.processes import Process
from tests.lab.ways.way import Place, Way, WayError, all_of, haproxy_at


class Beside(Way):
    """HAProxy, master and workers, and beside it what `launch` starts, if that is called at all."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.haproxy = haproxy_at(place)
        self._tool: Process | None = None

    def launch(self, *command: str) -> Process:
        """Start the program beside HAProxy, on the way's machine; the log has the name of the way's module."""
        log = self.place.work / f"{type(self).__module__.rpartition('.')[2]}.log"
        self._tool = tool = Process(self.place.space.command(*command), log)
        return tool

    def start(self) -> None:
        self.haproxy.start()

    def stop(self) -> None:
        tool, self._tool = self._tool, None
        ended = None if tool is None or tool.running else f"{tool.log.stem} had ended: {tool.log_tail(3)}"
        if tool is not None:
            tool.stop()
        self.haproxy.stop()
        if ended is not None:
            raise WayError(f"{self.name}: {ended}")

    def tools(self) -> frozenset[int]:
        return all_of(self._tool)
