"""Real Consul agents, on loopback, with nothing in them but themselves."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from tests.harness.ports import free_ports
from tests.harness.processes import Process, wait_until
from tests.harness.tools import consul_path, unused_consul_ports

Status = Literal["passing", "warning", "critical"]


class ConsulError(Exception):
    """Consul answered, but not with 200; the message has its status and text."""


class Agent:
    """One `consul agent`, of whatever kind, its process and its HTTP API.

    Every request goes over a connection that the calling thread keeps; use it from any thread.
    """

    def __init__(self, command: Sequence[str], log: Path, *, host: str, port: int, token: str = "") -> None:
        """Prepare to run `command`, logging to `log`, and to ask it at `host` and `port`, with `token` if any."""
        self.host = host
        self.port = port
        self.log = log
        self.command = tuple(command)
        self.is_paused = False
        self._headers = {"X-Consul-Token": token} if token else {}
        self._process: Process | None = None
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._maintained: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # The process

    def start(self) -> None:
        """Start the agent and wait until it is ready, by its own kind's measure (about a second)."""
        self.launch()
        try:
            wait_until(self._ready, 20, "Consul to be ready", process=self._process)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Start the agent and wait for nothing."""
        self._process = Process(self.command, self.log)
        self.is_paused = False

    def stop(self) -> None:
        """End the agent with SIGTERM, paused or not; harmless when it is not running."""
        self.resume()
        if self._process is not None:
            self._process.stop()
        self.hang_up()

    def kill(self) -> None:
        """End the agent with SIGKILL; harmless when it is not running."""
        self.is_paused = False
        if self._process is not None:
            self._process.kill()
        self.hang_up()

    def restart(self) -> None:
        """Stop and start on the same ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections, the kernel takes new ones for it, and nothing is answered."""
        if self.is_running:
            self.process.signal(signal.SIGSTOP)
            self.is_paused = True

    def resume(self) -> None:
        """SIGCONT; harmless when it is not paused."""
        if self.is_paused:
            self.process.signal(signal.SIGCONT)
            self.is_paused = False

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.running

    @property
    def process(self) -> Process:
        assert self._process is not None, "Consul was not started"
        return self._process

    def _ready(self) -> bool:
        return bool(self.request("GET", "/v1/agent/self"))

    # What the local agent holds: instances on its own node

    def register(
        self,
        service: str,
        instance_id: str,
        address: str,
        port: int,
        *,
        tags: Sequence[str] = (),
        weights: tuple[int, int] | None = None,
        checks: Sequence[Mapping[str, object]] | None = None,
    ) -> None:
        """Register an instance with the agent; `weights` are for passing and for warning.

        `checks` are the agent's check definitions; Consul carries them out itself.
        """
        body = {
            "Name": service,
            "ID": instance_id,
            "Address": address,
            "Port": port,
            "Tags": list(tags),
            "Checks": [dict(check) for check in checks or ()],
            **({"Weights": _weights(weights)} if weights else {}),
        }
        self.request("PUT", "/v1/agent/service/register", body)

    def deregister(self, instance_id: str) -> None:
        """Take an instance from the agent; 1.8 says nothing when it does not know it, later ones may."""
        self.request("PUT", f"/v1/agent/service/deregister/{quote(instance_id, safe='')}")

    # What the catalog holds: any node, any status, any string

    def put(
        self,
        service: str,
        instance_id: str,
        *,
        node: str,
        address: str,
        port: int,
        node_address: str = "127.0.0.1",
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        weights: tuple[int, int] = (1, 1),
        status: Status = "passing",
        service_maintenance: bool = False,
        node_maintenance: bool = False,
    ) -> None:
        """Have the catalog hold exactly this instance, on a node that no agent runs on.

        An empty `address` means `node_address`. Maintenance of the node holds for all its instances, so the
        last `put` on a node decides it. Not for a node with an agent, which removes what it did not register
        itself: "lab" of `Consul`, "client" and "server-..." of a `Cluster`.
        """
        checks = [{"CheckID": f"service:{instance_id}", "ServiceID": instance_id, "Name": "check", "Status": status}]
        maintenance = (
            (f"_service_maintenance:{instance_id}", instance_id, service_maintenance),
            ("_node_maintenance", "", node_maintenance),
        )
        ended = []
        for check, of_instance, wanted in maintenance:
            if wanted:
                checks.append(
                    {"CheckID": check, "ServiceID": of_instance, "Name": "maintenance", "Status": "critical"}
                )
            with self._lock:
                if wanted:
                    self._maintained.add((node, check))
                elif (node, check) in self._maintained:
                    self._maintained.remove((node, check))
                    ended.append(check)
        body = {
            "Node": node,
            "Address": node_address,
            "Service": {
                "Service": service,
                "ID": instance_id,
                "Address": address,
                "Port": port,
                "Tags": list(tags),
                "Meta": dict(meta or {}),
                "Weights": _weights(weights),
            },
            "Checks": [{"Node": node, **check} for check in checks],
        }
        self.request("PUT", "/v1/catalog/register", body)
        for check in ended:
            self.request("PUT", "/v1/catalog/deregister", {"Node": node, "CheckID": check})

    def remove(self, node: str, instance_id: str) -> None:
        """Take an instance, and its checks, from the catalog; harmless when it is not there."""
        with self._lock:
            self._maintained.discard((node, f"_service_maintenance:{instance_id}"))
        self.request("PUT", "/v1/catalog/deregister", {"Node": node, "ServiceID": instance_id})

    def remove_node(self, node: str) -> None:
        """Take a node, and all its instances, from the catalog; harmless when it is not there."""
        with self._lock:
            self._maintained = {held for held in self._maintained if held[0] != node}
        self.request("PUT", "/v1/catalog/deregister", {"Node": node})

    def health(self, service: str) -> list[dict[str, Any]]:
        """What /v1/health/service says, decoded; empty for an unknown service."""
        entries: list[dict[str, Any]] = self.request("GET", f"/v1/health/service/{quote(service, safe='')}")
        return entries

    # All of its state

    def snapshot(self) -> bytes:
        """All of its servers' state, for `restore`."""
        status, body = self._exchange("GET", "/v1/snapshot", None)
        if status != http.client.OK:
            raise ConsulError(f"snapshot: {status}")
        return body

    def restore(self, snapshot: bytes) -> None:
        """Put the servers' state back to an earlier one, while they run."""
        status, text = self._exchange("PUT", "/v1/snapshot", snapshot)
        if status != http.client.OK:
            raise ConsulError(f"restore: {status} {text.decode(errors='replace').strip()}")

    # HTTP

    def request(self, method: str, path: str, body: object = None) -> Any:
        """The decoded JSON answer to one request, which is repeatable: None when the answer is empty.

        Raises `ConsulError` unless the status is 200, `OSError` when Consul cannot be reached in 30 s.
        """
        data = None if body is None else json.dumps(body).encode()
        status, text = self._exchange_again(method, path, data)
        if status != http.client.OK:
            raise ConsulError(f"{method} {path}: {status} {text.decode(errors='replace').strip()}")
        return json.loads(text) if text.strip() else None

    def _exchange_again(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        """Exchange, anew where that failed.

        A kept connection may have ended with an earlier agent. An agent at its limit of connections closes a new one
        at once, until hapsync's turns leave room.
        """
        until = time.monotonic() + 30
        is_first = True
        while True:
            may_try = is_first or time.monotonic() < until
            try:
                status, text = self._exchange(method, path, data)
                if status != http.client.TOO_MANY_REQUESTS or not may_try:
                    return status, text
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not may_try:
                    raise
            except (http.client.HTTPException, OSError):
                if not is_first:
                    raise
            time.sleep(0.0 if is_first else 0.1)
            is_first = False

    def _exchange(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(method, path, data, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        except BaseException:
            # It connects anew at its next use.
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
            self._local.connection = connection
            with self._lock:
                # Held here, so that a connection is closed even when its thread has ended.
                self._connections.append(connection)
        return connection

    def hang_up(self) -> None:
        """Close the connections kept; each comes anew at its next use."""
        with self._lock:
            for connection in self._connections:
                connection.close()


class Consul(Agent):
    """`consul agent -dev`: one server that keeps everything in memory, so a restart forgets it all."""

    def __init__(self, work: Path, *, config: Mapping[str, object] | None = None, token: str = "") -> None:
        """Prepare an agent that logs to `work`; every request of this object sends `token`, where there is one.

        `config` is merged over the agent's configuration file at its top level, for example
        `{"limits": {"http_max_conns_per_client": 50}}` or `{"http_config": {"use_cache": False}}`.
        """
        port, serf, server = free_ports(3)
        settings = work / f"consul-{port}.json"
        ports = {"http": port, "serf_lan": serf, "server": server}
        unused = unused_consul_ports("dns", "serf_wan")
        base = {"ports": {**ports, **unused}, "disable_update_check": True, "log_level": "warn"}
        settings.write_text(json.dumps({**base, **(config or {})}), encoding="utf-8")
        command = (
            *(consul_path(), "agent", "-dev", "-node=lab", "-bind=127.0.0.1", "-client=127.0.0.1"),
            *("-config-format=json", f"-config-file={settings}"),
        )
        super().__init__(command, work / f"consul-{port}.log", host="127.0.0.1", port=port, token=token)

    def launch(self) -> None:
        super().launch()
        with self._lock:
            self._maintained.clear()

    def _ready(self) -> bool:
        """Whether it leads and has registered itself."""
        return bool(self.request("GET", "/v1/status/leader")) and bool(self.health("consul"))


class AclConsul(Consul):
    """A `Consul` that denies whatever no token allows; see `acl_consul`.

    The requests of this object may do anything; the programs under test get tokens of their own.
    """

    def set_policy(self, name: str, rules: str) -> None:
        """Have the policy `name` allow exactly `rules`, in Consul's own words; "" allows nothing.

        Tokens that hold it change with it, but only for what is asked anew. Answers of the agent's cache
        (`?cached`) keep the rights that the cache's own query was begun with, until that query returns.
        """
        body = {"Name": name, "Rules": rules}
        known = {policy["Name"]: policy["ID"] for policy in self.request("GET", "/v1/acl/policies")}
        self.request("PUT", f"/v1/acl/policy/{known[name]}" if name in known else "/v1/acl/policy", body)

    def token(self, *policies: str) -> str:
        """The secret of a new token that holds `policies`, by their names."""
        body = {"Policies": [{"Name": policy} for policy in policies]}
        return str(self.request("PUT", "/v1/acl/token", body)["SecretID"])

    def delete_token(self, secret: str) -> None:
        """Take the token away; `LookupError` when there is no such token."""
        for token in self.request("GET", "/v1/acl/tokens"):
            accessor = token["AccessorID"]
            # Later versions list tokens without their secrets.
            if self.request("GET", f"/v1/acl/token/{accessor}").get("SecretID") == secret:
                self.request("DELETE", f"/v1/acl/token/{accessor}")
                return
        raise LookupError("no such token")


MASTER_TOKEN = "5f1f0ad3-0e5c-4f4e-9d9f-0d8e5b0e9a11"
"""What `AclConsul` is asked with, and what nobody else should ever hold."""


def acl_consul(work: Path) -> AclConsul:
    """A Consul that denies by default; not yet started.

    The agent does not keep what it knows of tokens and policies (`token_ttl`, `policy_ttl`), so that a change of
    rights holds at once.
    """
    acl = {
        "enabled": True,
        "default_policy": "deny",
        "token_ttl": "0s",
        "policy_ttl": "0s",
        "tokens": {"master": MASTER_TOKEN, "agent": MASTER_TOKEN},
    }
    return AclConsul(work, config={"acl": acl}, token=MASTER_TOKEN)


def _weights(weights: tuple[int, int]) -> dict[str, int]:
    passing, warning = weights
    return {"Passing": passing, "Warning": warning}
