"""Ways that are HashiCorp's consul-template: `ConsulTemplate`."""

import json
import shlex
import subprocess
from typing import ClassVar

from tests.harness.tools import haproxy_path
from tests.lab.config import BACKEND, SERVER_OPTIONS, filled, template
from tests.lab.ways.beside import Beside
from tests.lab.ways.gotools import GoTool
from tests.lab.ways.way import Place, reload_command

TOOL = GoTool("github.com/hashicorp/consul-template", "v0.42.1")

# `service` gives the instances that pass, and the address of the instance where it has one, else its node's.
_SERVERS = f"""\
{{{{ range service "{BACKEND}" }}}}    server {{{{ .Address }}}}_{{{{ .Port }}}} {{{{ .Address }}}}:{{{{ .Port }}}} \
{SERVER_OPTIONS}
{{{{ end }}}}"""

# What is checked is not yet what a restart would start from.
_JOB = """\
#!/bin/sh
set -e
{haproxy} -c -q -f {candidate}
cp {candidate} {config}.tmp
mv {config}.tmp {config}
{reload}
"""


class ConsulTemplate(Beside):
    """consul-template renders the whole file at each change; its job checks, installs and reloads, seamlessly.

    It watches by blocking queries, stale ones, at most ten a second. It never gives up on Consul (`attempts = 0`).
    Its file of settings is JSON, which it takes as well as HCL.
    """

    wait: ClassVar[tuple[str, str] | None]
    """Its `wait`: how long it is to be quiet before it renders, and how long it waits at most."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._settings = place.work / "consul-template.json"
        self._command = (TOOL.path(), "-config", str(self._settings))

    @classmethod
    def program(cls) -> str:
        TOOL.path()
        return haproxy_path()

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        waits = "no `wait`, its default and fastest" if cls.wait is None else f"`wait` {cls.wait[0]} to {cls.wait[1]}"
        return f"consul-template {TOOL.told()}, {waits}; `haproxy -c`, then the master reloaded through its socket"

    def prepare(self) -> None:
        work = self.place.work
        source, candidate, job = work / "haproxy.ctmpl", work / "haproxy.cfg.new", work / "job.sh"
        source.write_text(filled(template(self.haproxy.socket_path), _SERVERS), encoding="utf-8")
        job.write_text(
            _JOB.format(
                haproxy=self.place.haproxy,
                candidate=candidate,
                config=self.haproxy.config,
                reload=shlex.join(reload_command(self.haproxy)),
            ),
            encoding="utf-8",
        )
        job.chmod(0o755)
        consul = {"address": self.place.consul.url.removeprefix("http://"), "retry": {"attempts": 0}}
        one = {
            "source": str(source),
            "destination": str(candidate),
            "exec": {"command": [str(job)], "timeout": "30s"},
        }
        settings: dict[str, object] = {"consul": consul, "template": one, "log_level": "warn"}
        if self.wait is not None:
            settings["wait"] = {"min": self.wait[0], "max": self.wait[1]}
        self._settings.write_text(json.dumps(settings), encoding="utf-8")
        # Its job finds no HAProxy to reload yet.
        subprocess.run(self.place.space.command(*self._command, "-once"), check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        super().start()
        # It finds its file as it would write it, so that it has nothing to do at first.
        self.launch(*self._command)


class ConsulTemplateAtOnce(ConsulTemplate):
    name = "consul-template"
    wait = None


class ConsulTemplateWaits(ConsulTemplate):
    """As its documentation's example for a cluster that changes much."""

    name = "consul-template, wait 5 s"
    wait = ("5s", "10s")
