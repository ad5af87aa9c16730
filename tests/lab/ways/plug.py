"""A reload without hand-over for which new connections are made to wait: `PluggedReload`."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tests.harness.processes import wait_until
from tests.lab.network import Space
from tests.lab.ways.rendered import Reload
from tests.lab.ways.way import UnavailableError, WayError

HOLD_SECONDS = 10.0
"""SYNs are let go after so long in any case."""
_LINK = "syns"
_LIMIT_BYTES = 1 << 24
"""A plug drops what is above its limit."""
_LISTENING = "0A"

# Plug holds packets that leave a device, so arriving SYNs are sent through a device for them alone (ifb) and come
# back to where they were. A plug begins plugged. The filter: TCP, a header without options, SYN but not ACK.
_MAKE = f"""
set -e
ip link add {_LINK} type ifb
ip link set {_LINK} up
tc qdisc add dev {_LINK} root plug limit {_LIMIT_BYTES}
tc qdisc change dev {_LINK} root plug release_indefinite
tc qdisc add dev $1 ingress
tc filter add dev $1 parent ffff: protocol ip u32 match ip protocol 6 0xff match u8 0x05 0x0f at 0 \\
  match u8 0x02 0x12 at 33 action mirred egress redirect dev {_LINK}
"""
_REMOVE = f"tc qdisc del dev $1 ingress; ip link del {_LINK}"
# It lets go when it is told to, when whoever started it is gone, and after a time, whichever is first.
_HOLD = f"""
tc qdisc change dev {_LINK} root plug block && echo held
read -r -t {HOLD_SECONDS:g} told; is_told=$?
tc qdisc change dev {_LINK} root plug release_indefinite && exit $is_told
"""


class PluggedReload(Reload):
    """The reload of `Reload`, and from before it until the old process has closed its sockets, SYNs are held.

    So no connection is completed for a socket that is about to be closed; a connection that is begun meanwhile is
    made so much later. What Yelp did in 2015 ("True Zero Downtime HAProxy Reloads"), where clients were on the same
    machine. Here they are not, so it is done as packets arrive.
    """

    name = "reload, SYNs held"
    settle_seconds: ClassVar[float] = 0.02
    """In this time the old process accepts all connections that the kernel had completed."""

    @classmethod
    def program(cls) -> str:
        """`UnavailableError` where the kernel cannot do it, which is tried in a namespace of its own."""
        said = subprocess.run(
            ("unshare", "--net", "sh", "-c", _MAKE, "sh", "lo"), capture_output=True, text=True, check=False
        )
        if said.returncode:
            raise UnavailableError(
                f"this kernel cannot hold SYNs (it needs sch_plug, sch_ingress, cls_u32, act_mirred and ifb): "
                f"{said.stderr.strip()}"
            )
        return super().program()

    @classmethod
    def describe(cls, interval_seconds: float) -> str:
        return f"{super().describe(interval_seconds)}, while a plug qdisc holds the SYNs that arrive"

    def start(self) -> None:
        _run(self.place.space, _REMOVE, check=False)
        _run(self.place.space, _MAKE, check=True)
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            _run(self.place.space, _REMOVE, check=False)

    def replace(self) -> None:
        before = self._listening()
        with held(self.place.space, self.settle_seconds):
            super().replace()
            wait_until(lambda: not before & self._listening(), HOLD_SECONDS, "the old process to close its sockets")

    def _listening(self) -> frozenset[str]:
        """The sockets that listen on this machine, by their inodes."""
        lines = Path(f"/proc/{self.haproxy.process.pid}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
        return frozenset(words[9] for words in map(str.split, lines) if words[3] == _LISTENING)


@contextmanager
def held(space: Space, settle_seconds: float = 0.0) -> Iterator[None]:
    """SYNs that arrive at the machine wait, for `HOLD_SECONDS` at most, and longer than this process in no case.

    Raises `WayError` when they were let go before the end.
    """
    holder = subprocess.Popen(
        space.command("bash", "-c", _HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder:
        if not holder.stdout.readline():
            raise WayError("SYNs cannot be held any more")
        time.sleep(settle_seconds)
        yield
        holder.communicate(b"\n")
    if holder.returncode:
        raise WayError("SYNs were let go before the reload was over")


def _run(space: Space, script: str, *, check: bool) -> None:
    command = space.command("sh", "-c", script, "sh", "eth0")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and ended.returncode:
        raise WayError(f"SYNs cannot be held: {ended.stderr.strip()}")
