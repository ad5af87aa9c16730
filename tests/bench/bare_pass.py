"""The floor of a cold pass, a program: `python -m tests.bench.bare_pass CONSUL_PORT HAPROXY_SOCKET BACKEND...`.

It believes that all slots are free and that HAProxy does what it is told.
"""

import http.client
import json
import sys
import time

from tests.bench.bare import Prompt, addresses, get, ready_lines


def main() -> None:
    port, socket, backends = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    begin = time.monotonic()
    consul = http.client.HTTPConnection("127.0.0.1", port)
    bodies = [get(consul, f"/v1/health/service/{backend}?stale")[1] for backend in backends]
    wanted = [list(addresses(body)) for body in bodies]
    read = time.monotonic()
    haproxy = Prompt(socket)
    lines = [
        line
        for backend, of_backend in zip(backends, wanted, strict=True)
        for number, address in enumerate(of_backend, 1)
        for line in ready_lines(f"{backend}/srv{number}", address)
    ]
    haproxy.pour("".join(lines).encode(), len(lines))
    end = time.monotonic()
    print(json.dumps({"catalog": read - begin, "HAProxy": end - read}))


if __name__ == "__main__":
    main()
