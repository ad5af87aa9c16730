"""The floor of change-to-live, a program: one bare blocking query, and the bare commands for what it brings.

`python -m tests.bench.follower CONSUL_PORT HAPROXY_SOCKET BACKEND` follows the service of the backend's name. It
believes that HAProxy is as it was at the start, all slots free, and did what it was told.
"""

import http.client
import sys

from tests.bench.bare import Prompt, addresses, get, ready_lines


def main() -> None:
    port, socket, backend = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    consul = http.client.HTTPConnection("127.0.0.1", port)
    haproxy = Prompt(socket)
    free = [f"{backend}/srv{number}" for number in range(20, 0, -1)]
    taken: dict[tuple[str, int], str] = {}
    index = "0"
    while True:
        index, body = get(consul, f"/v1/health/service/{backend}?cached&index={index}&wait=60s")
        wanted = set(addresses(body))
        lines: list[str] = []
        for address in wanted - taken.keys():
            taken[address] = free.pop()
            lines += ready_lines(taken[address], address)
        for address in taken.keys() - wanted:
            free.append(taken.pop(address))
            lines.append(f"set server {free[-1]} state maint\n")
        if lines:
            haproxy.ask("".join(lines).encode(), len(lines))


if __name__ == "__main__":
    main()
