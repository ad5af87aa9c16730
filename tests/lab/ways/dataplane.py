"""Ways that are HAProxy's Data Plane API with its own Consul discovery: `DataPlane`.

By its documentation: `discovery/CONSUL.md` and `configuration/` of its source, version 3.4.2. Where the module proxy
does not give its module, the lab leaves these ways out and says why, unless DATAPLANEAPI names a program.
"""

import base64
import json
import re
import shlex
import urllib.request
from collections.abc import Mapping
from typing import ClassVar

from tests.harness.processes import wait_until
from tests.harness.tools import haproxy_path
from tests.lab.config import BACKEND, SERVER_OPTIONS, filled, template
from tests.lab.programs import CONSUL_PORT
from tests.lab.traffic.sent import Traffic
from tests.lab.ways.beside import Beside
from tests.lab.ways.gotools import GoTool
from tests.lab.ways.way import Place, reload_command

TOOL = GoTool("github.com/haproxytech/dataplaneapi/cmd/dataplaneapi", "8613429f11a6")
_PORT = 5555
_USER = "lab"


class DataPlane(Beside):
    """It polls Consul, edits the file, checks it (`haproxy -c`), and reloads, at once for all changes of a period.

    The backend has a name that it makes. The shipped template's backend gets that name, so that it keeps its checks
    and its `balance`, and so that the frontend sends to it; the discovery takes a backend that is there already, and
    writes the whole file anew, with the same meaning. Its slots are lines of the file; to fill one takes a reload.

    `health_check_policy` is `all`: unless it is set, instances that are critical serve as well.
    """

    left_out: ClassVar[Mapping[Traffic, str]] = {"tcp": "its discovery makes one backend of a service"}
    retry_seconds: ClassVar[int]
    """`retry_timeout`, how often it polls: whole seconds, 1 at least. It has no default."""
    reload_seconds: ClassVar[int]
    """`reload_delay`, how often it reloads at most: whole seconds, 1 at least; 5 unless set."""
    slots: ClassVar[int | None]
    """`server_slots_base`, with how many slots it begins; None leaves it to its default, which is 10. They double
    where there are not enough."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._program = TOOL.path()
        self._settings = place.work / "dataplaneapi.yaml"

    @classmethod
    def program(cls) -> str:
        TOOL.path()
        return haproxy_path()

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        return (
            f"HAProxy Data Plane API ({TOOL.told()}) and its Consul discovery: `retry_timeout` "
            f"{cls.retry_seconds} s, `reload_delay` {cls.reload_seconds} s, `health_check_policy` all, "
            f"`server_slots_base` {cls.slots or '10, its default'}; `haproxy -c`, then the master reloaded through "
            "its socket"
        )

    @property
    def backend(self) -> str:
        return f"consul-backend-{self.place.consul.host}-{CONSUL_PORT}-{BACKEND}"

    def prepare(self) -> None:
        work = self.place.work
        text = filled(template(self.haproxy.socket_path, has_tcp=False), f"    default-server {SERVER_OPTIONS}\n")
        named = re.sub(rf"(\b(?:backend|default_backend) |\bnbsrv\(){BACKEND}\b", rf"\g<1>{self.backend}", text)
        self.haproxy.config.write_text(named, encoding="utf-8")
        resources = ("maps", "ssl_certs", "general_storage", "dataplane_storage", "spoe", "spoe_transaction")
        settings = {
            "name": "lab",
            "dataplaneapi": {
                "host": self.place.space.address,
                "port": _PORT,
                "user": [{"name": _USER, "password": _USER, "insecure": True}],
                "transaction": {"transaction_dir": str(work / "transactions")},
                "resources": {f"{name}_dir": str(work / name) for name in resources},
            },
            "haproxy": {
                "config_file": str(self.haproxy.config),
                "haproxy_bin": self.place.haproxy,
                "reload": {
                    "reload_delay": self.reload_seconds,
                    # Split at blanks, so none of its words may hold one.
                    "reload_cmd": shlex.join(reload_command(self.haproxy)),
                    # It is asked for; nothing here ever needs a restart.
                    "restart_cmd": shlex.join(reload_command(self.haproxy)),
                },
            },
            "log_targets": [{"log_to": "stdout", "log_level": "warning", "log_types": ["app"]}],
        }
        # JSON is YAML.
        self._settings.write_text(json.dumps(settings), encoding="utf-8")

    def start(self) -> None:
        super().start()
        tool = self.launch(self._program, "-f", str(self._settings))
        wait_until(lambda: self._ask("/v3/info"), 30, "the Data Plane API", process=tool)
        self._ask(
            "/v3/service_discovery/consul",
            {
                "address": self.place.consul.host,
                "port": CONSUL_PORT,
                "enabled": True,
                "retry_timeout": self.retry_seconds,
                "health_check_policy": "all",
                "service_allowlist": [BACKEND],
                **({} if self.slots is None else {"server_slots_base": self.slots}),
            },
        )

    def _ask(self, path: str, body: Mapping[str, object] | None = None) -> bytes:
        """The answer to a GET, or to a POST of `body`; `OSError` unless its status is a 2xx."""
        secret = base64.b64encode(f"{_USER}:{_USER}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.place.space.address}:{_PORT}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            said: bytes = answer.read()
        return said


class FastDataPlane(DataPlane):
    """As fast as it can be set, with more slots than it ever needs."""

    name = "data plane api"
    retry_seconds = 1
    reload_seconds = 1
    slots = 128


class DocumentedDataPlane(DataPlane):
    """Its defaults, and the shorter of the two periods in its examples: 10 s in the API's, 60 s in its guide's."""

    name = "data plane api, 10 s"
    retry_seconds = 10
    reload_seconds = 5
    slots = None
