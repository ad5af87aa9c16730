"""The work of `hapsync apply`, a program that says how long it took: `python -m tests.bench.one_pass CONFIG`."""

import json
import sys
import time

from hapsync.agent.once import apply_once
from hapsync.agent.settings import read_settings
from hapsync.consul.read_once import read_catalog


def main() -> None:
    settings = read_settings(sys.argv[1])
    begin = time.monotonic()
    catalog, errors = read_catalog(settings.config.consul, settings.config.services)
    read = time.monotonic()
    applied = apply_once(settings, catalog)
    end = time.monotonic()
    if errors or not applied.in_sync:
        sys.exit(f"not in sync: {errors} {applied.lines[:5]}")
    print(json.dumps({"catalog": read - begin, "HAProxy and its file": end - read}))


if __name__ == "__main__":
    main()
