"""Ports of loopback that nobody else will take while the tests run."""

import os
import socket
import threading
from collections.abc import Iterator

# Below the ports that the kernel gives to outgoing connections, 32768 and up: none of those is in the way.
_FIRST, _LAST, _BLOCK = 12_000, 31_999, 200

_lock = threading.Lock()
_claims: list[int] = []  # descriptors, open until the process ends


def free_port() -> int:
    """A port, free for TCP and UDP on every local address; never the same one twice in a process.

    Raises `RuntimeError` when all ports have been handed out.
    """
    with _lock:
        return next(_ports)


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different ports; see `free_port`."""
    return tuple(free_port() for _ in range(count))


def _all_ports() -> Iterator[int]:
    blocks = range(_FIRST, _LAST + 1, _BLOCK)
    # Processes begin apart, so that a run does not meet the closing connections of the run before it.
    start = os.getpid() * 7 % len(blocks)
    for block in (*blocks[start:], *blocks[:start]):
        if _claim(block):
            yield from filter(_is_free, range(block, block + _BLOCK))
    raise RuntimeError(f"all ports from {_FIRST} to {_LAST} are taken")


_ports = _all_ports()


def _claim(block: int) -> bool:
    """Whether this process now owns a block of ports, until it ends.

    The owner holds a name in the kernel's abstract socket namespace: taking it is atomic between the parallel
    workers of one test run and between test runs, and the kernel frees it however the owner ends.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0hapsync-test-ports-{block}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim.detach())
    return True


def _is_free(port: int) -> bool:
    kinds = (
        (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0"),
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::"),
    )
    return all(_can_bind(family, kind, host, port) for family, kind, host in kinds)


def _can_bind(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> bool:
    with socket.socket(family, kind) as probe:
        if kind is socket.SOCK_STREAM:
            # Connections that are only waiting out their TIME_WAIT disturb no listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
