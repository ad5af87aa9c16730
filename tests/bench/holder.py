"""The floor of the footprint, a program: `python -m tests.bench.holder CONSUL_PORT SERVICE...`.

A thread and a bare blocking query for each service, and the raw answer kept.
"""

import http.client
import sys
import threading

from tests.bench.bare import get

_bodies: dict[str, bytes] = {}


def _hold(port: int, service: str) -> None:
    consul = http.client.HTTPConnection("127.0.0.1", port)
    index = "0"
    while True:
        index, _bodies[service] = get(consul, f"/v1/health/service/{service}?cached&index={index}&wait=60s")


def main() -> None:
    port, services = int(sys.argv[1]), sys.argv[2:]
    threads = [threading.Thread(target=_hold, args=(port, service)) for service in services]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
