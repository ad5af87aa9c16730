"""A stage whose requests find their backend by their path: /NAME/ goes to PREFIX and NAME, else to the first."""

import re
import subprocess
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from tests.demo.fleet import Fleet
from tests.demo.stage import Stage
from tests.harness.haproxy import HAProxy
from tests.harness.processes import wait_until
from tests.harness.tools import haproxy_path

SECTIONS = """
{% for name in backends("apps") %}
backend {{ name }} from apps
    {{ servers(name) }}
{% endfor %}
"""
"""What gives each discovered backend its section."""
GROUP = """
[discover.apps]
tag = "app"
prefix = "app-"
max_backends = {max_backends}
forget_seconds = {forget_seconds}

[discover.apps.each]
slots = 2
server_options = "check inter 300ms"
"""


def name_defaults(stage: Stage, *, prefix: str = "") -> None:
    """Let the template have named defaults, which every proxy is from, and rules that work out a backend's name."""
    template = stage.work / "haproxy.cfg.j2"
    text = template.read_text(encoding="utf-8")
    routes = f"    use_backend {prefix}%[path,field(2,/)]\n    default_backend web"
    text = text.replace("\ndefaults\n", "\ndefaults apps\n", 1).replace("    default_backend web", routes)
    text = re.sub(r"(?m)^(frontend|backend) (\w+)$", r"\1 \2 from apps", text)
    template.write_text(text, encoding="utf-8")


def discover(stage: Stage, *, forget_seconds: float = 2, max_backends: int = 100) -> None:
    """Let the settings discover services tagged `app`, each as a plain backend app-NAME."""
    with (stage.work / "haproxy.cfg.j2").open("a", encoding="utf-8") as template:
        template.write(SECTIONS)
    with stage.config_path.open("a", encoding="utf-8") as config:
        config.write(GROUP.format(forget_seconds=forget_seconds, max_backends=max_backends))


def adds_backends() -> bool:
    """Whether this HAProxy adds and deletes whole backends."""
    said = subprocess.run([haproxy_path(), "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    assert found is not None
    return (int(found[1]), int(found[2])) >= (3, 4)


def backends(haproxy: HAProxy) -> set[str]:
    """The backends HAProxy has, whether published or not."""
    rows = haproxy.ask("show stat -1 2 -1").splitlines()
    return {row.split(",")[0] for row in rows if row and not row.startswith("#")}


def who_answers(stage: Stage, path: str) -> str:
    """The name of the server that answers a request for `path`; empty where none does."""
    connection = HTTPConnection("127.0.0.1", stage.frontend_port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode().strip()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()
    return body if response.status == HTTPStatus.OK else ""


def wait_serves(stage: Stage, fleet: Fleet, seconds: float = 15) -> None:
    """Wait until requests for the service of `fleet` reach one of its instances."""
    addresses = {member.address for member in fleet.members.values()}
    path = f"/{fleet.service}/"
    wait_until(lambda: who_answers(stage, path) in addresses, seconds, f"{fleet.service} to serve")


def wait_in_step(stage: Stage) -> None:
    """Wait until HAProxy and its file are as Consul and the settings say."""
    wait_until(lambda: stage.status()["agent"]["in_sync"], 15, "the agent to be in sync, its file too")
