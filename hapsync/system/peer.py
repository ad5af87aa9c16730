"""Who is at the other end of a unix socket."""

import socket
import struct


def peer_of(connection: socket.socket) -> tuple[int | None, int | None]:
    """Return pid and user id of the process at the other end of a unix socket, by the kernel's word (unix(7)).

    On the side that connected it is the process which listens. None where the kernel does not tell, or the process
    is in another PID namespace.
    """
    form = "iII"
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form))
    except OSError:
        return None, None
    pid, uid, _ = struct.unpack(form, found)
    return int(pid) or None, int(uid)
