"""The kernel's socket diagnostics: how full the accept queues of a process's listeners are.

pyroute2's `DiagSocket` swallows errors of the kernel and then shows no socket at all (measured), so a listener of our
own is opened and must be among what it shows.
"""

import contextlib
import os
import socket

from hapsync.errors import HapsyncError
from hapsync.model.server import ListenQueue

_LISTEN = 10
"""TCP_LISTEN of the kernel's include/net/tcp_states.h."""


def read_listen_queues(pid: int) -> tuple[ListenQueue, ...]:
    """Return the accept queues of the TCP listeners of process `pid`, the fullest first.

    Raises HapsyncError when the kernel does not tell, or the process's descriptors may not be looked at.
    """
    from pyroute2 import DiagSocket  # noqa: PLC0415  (60 ms)

    inodes = socket_inodes(pid)
    found = []
    ours_seen = False
    with socket.create_server(("127.0.0.1", 0)) as ours, DiagSocket() as diag:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in diag.get_sock_stats(family=family, states=1 << _LISTEN):
                ours_seen = ours_seen or message["idiag_sport"] == ours.getsockname()[1]
                if message["idiag_inode"] in inodes:
                    found.append(
                        ListenQueue(
                            message["idiag_src"],
                            message["idiag_sport"],
                            message["idiag_rqueue"],
                            message["idiag_wqueue"],
                        )
                    )
    if not ours_seen:
        raise HapsyncError("the kernel's socket diagnostics show no listener at all; is inet_diag available?")
    return tuple(sorted(found, key=lambda one: (-one.waiting, one.port, one.host)))


def socket_inodes(pid: int) -> set[int]:
    """Return the inodes of the sockets that process `pid` holds; they are one place in the kernel's lists, too.

    Raises HapsyncError when its descriptors may not be looked at by this user, or it has ended.
    """
    inodes = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError as error:
        raise HapsyncError(f"the sockets of HAProxy's worker {pid} may not be looked at: {error}") from error
    for descriptor in descriptors:
        with contextlib.suppress(OSError, ValueError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes
