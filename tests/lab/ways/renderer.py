"""Reads Consul, renders HAProxy's configuration and has HAProxy check it: the job that ways by the clock run.

A program of its own, on the balancer: what it costs, and what it asks of Consul, are its own. What systemd does in
real life is the lab's part: it says when (the timer), and starts, stops and reloads HAProxy (the unit).
"""

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from tests.harness.control import serve
from tests.lab.config import BACKEND, rendered


class _Renderer:
    def __init__(self, *, consul: str, template: str, config: str, haproxy: str) -> None:
        self.address = f"{consul}/v1/health/service/{quote(BACKEND)}?passing=1"
        self.template = Path(template).read_text(encoding="utf-8")
        self.config, self.haproxy = Path(config), haproxy

    async def render(self) -> Mapping[str, bool]:
        """Install the configuration for the instances that pass now; `OSError` when HAProxy refuses it.

        Where Consul cannot be read, such as while it has no leader, nothing is installed ("is_new" is false).
        """
        return {"is_new": await asyncio.to_thread(self._render)}

    def _render(self) -> bool:
        try:
            with urllib.request.urlopen(self.address, timeout=10) as answer:
                entries = json.load(answer)
        except urllib.error.URLError as error:
            print(f"{self.address}: {error}", file=sys.stderr)
            return False
        candidate = self.config.with_suffix(".new")
        candidate.write_text(rendered(self.template, entries), encoding="utf-8")
        check = subprocess.run((self.haproxy, "-c", "-f", candidate), check=False, capture_output=True, text=True)
        if check.returncode:
            raise OSError(f"{self.haproxy} refuses {candidate}: {check.stderr.strip()}")
        candidate.replace(self.config)
        return True


if __name__ == "__main__":
    renderer = _Renderer(**json.loads(sys.argv[1]))
    asyncio.run(serve({"render": renderer.render}))
