"""Reloads HAProxy by its master socket, and waits until that is done: `systemctl reload` in the lab.

A script for `python -I -S`, which takes 16 ms, so it imports little. It waits, as systemd does for a unit that tells
when it is ready (Debian's haproxy.service): a reload that is asked for while another is under way may be lost. Where
HAProxy is down nothing is done and nothing is wrong: it will start with the file that is there.
"""

import socket
import sys
import time

_RELOAD_SECONDS = 20.0
_DOWN_SECONDS = 1.0
"""A master that executes itself anew refuses connections for a moment; one that does for so long is down."""


class _DownError(Exception):
    """There is no HAProxy."""


def main() -> int:
    _, master = sys.argv
    deadline = time.monotonic() + _RELOAD_SECONDS
    try:
        before = reloads(master)
        ask(master, "reload")
        while time.monotonic() < deadline:
            if reloads(master) > before:
                return 0
            time.sleep(0.002)
    except _DownError:
        return 0
    print(f"HAProxy had not reloaded after {_RELOAD_SECONDS:g} s", file=sys.stderr)
    return 1


def reloads(master: str) -> int:
    """How often it has been reloaded: the third column of the master's own row."""
    while True:
        for line in ask(master, "show proc").splitlines():
            words = line.split()
            if words[1:2] == ["master"]:
                return int(words[2])
        time.sleep(0.002)  # it executes itself anew: it took the connection, and closed it


def ask(master: str, command: str) -> str:
    """What it answers; "" or half of it where it executes itself anew meanwhile."""
    said = b""
    with _connected(master) as connection:
        try:
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                said += part
        except ConnectionError:
            pass
    return said.decode()


def _connected(master: str) -> socket.socket:
    deadline = time.monotonic() + _DOWN_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_RELOAD_SECONDS)
        try:
            connection.connect(master)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if time.monotonic() > deadline:
                raise _DownError from error
            time.sleep(0.002)
        else:
            return connection


if __name__ == "__main__":
    sys.exit(main())
