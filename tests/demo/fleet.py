"""The instances of one service: in Consul's catalog, and the real servers behind them."""

import itertools
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from attrs import frozen

from tests.demo.stage import Stage
from tests.demo.truth import Placed, scaled
from tests.harness.consul import Status
from tests.harness.control import HelperError
from tests.harness.ports import free_port

HOST = "127.0.0.1"


@frozen
class Member:
    """One instance, as Consul should have it; `weights` are for passing and for warning."""

    name: str
    node: str
    port: int
    weights: tuple[int, int] = (10, 3)
    status: Status = "passing"
    maintenance: bool = False

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


class Fleet:
    """The instances of a service, by name, spread over nodes; every change of one goes to Consul's catalog.

    Servers come and go as real ones do: they listen before they are registered, are deregistered first when they
    leave, serve a moment longer, and then stop gracefully.
    """

    def __init__(
        self,
        stage: Stage,
        service: str = "web",
        *,
        nodes: Sequence[str] = ("node-a", "node-b", "node-c"),
        linger_seconds: float = 3.0,
        tags: Sequence[str] = (),
    ) -> None:
        self.service = service
        self.members: dict[str, Member] = {}
        self.maintained_nodes: set[str] = set()
        self.tags = tags
        self._stage = stage
        self._nodes = itertools.cycle(nodes)
        self._numbers = itertools.count(1)
        self._linger_seconds = linger_seconds
        self._leaving: list[threading.Timer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._leaving:
            timer.cancel()
            timer.join()

    def start_server(self) -> Member:
        """A new instance whose server listens already but which Consul does not know yet: `put` it there."""
        node, port = next(self._nodes), free_port()
        self._stage.origins.open(HOST, port)
        return Member(f"{self.service}-{next(self._numbers)}", node, port)

    def put(self, member: Member) -> None:
        """Have Consul hold this instance as `member` says."""
        self.members[member.name] = member
        self._stage.consul.put(
            self.service,
            member.name,
            node=member.node,
            address=HOST,
            port=member.port,
            tags=self.tags,
            weights=member.weights,
            status=member.status,
            service_maintenance=member.maintenance,
            node_maintenance=member.node in self.maintained_nodes,
        )

    def add(self) -> Member:
        """Start a server and register it."""
        member = self.start_server()
        self.put(member)
        return member

    def add_at_once(self, count: int) -> list[Member]:
        """Start servers and register them all in one step, so that no reload for some comes between."""
        members = [self.start_server() for _ in range(count)]
        consul = self._stage.consul
        for node in {one.node for one in members}:
            consul.request("PUT", "/v1/catalog/register", {"Node": node, "Address": HOST})
        services = [
            {
                "Node": one.node,
                "Service": {
                    "Service": self.service,
                    "ID": one.name,
                    "Address": HOST,
                    "Port": one.port,
                    "Tags": list(self.tags),
                    "Weights": {"Passing": one.weights[0], "Warning": one.weights[1]},
                },
            }
            for one in members
        ]
        consul.request("PUT", "/v1/txn", [{"Service": {"Verb": "set", **one}} for one in services])
        self.members.update({one.name: one for one in members})
        return members

    def maintain_node(self, node: str, *, on: bool) -> None:
        """Put a node into maintenance, or end that; it must have at least one instance."""
        (self.maintained_nodes.add if on else self.maintained_nodes.discard)(node)
        self.put(next(member for member in self.members.values() if member.node == node))

    def set_health(self, name: str, *, ok: bool) -> None:
        """Choose what an instance's server answers to HAProxy's own check; Consul is told by `put`."""
        self._stage.origins.set_health(HOST, self.members[name].port, ok)

    def remove(self, name: str) -> None:
        """Deregister an instance; its server stops a moment later."""
        member = self.members.pop(name)
        self._stage.consul.remove(member.node, name)
        timer = threading.Timer(self._linger_seconds, self._close, (member,))
        timer.daemon = True
        timer.start()
        self._leaving = [*(one for one in self._leaving if one.is_alive()), timer]

    def vanish(self) -> None:
        """Have Consul forget all instances in one step, though their servers go on; `put` brings them back."""
        self._stage.consul.request(
            "PUT",
            "/v1/txn",
            [
                {
                    "Service": {
                        "Verb": "delete",
                        "Node": member.node,
                        "Service": {"Service": self.service, "ID": member.name},
                    }
                }
                for member in self.members.values()
            ],
        )

    def _close(self, member: Member) -> None:
        with suppress(HelperError, OSError):  # all origins are ending, or have, and their folder is gone
            self._stage.origins.close(HOST, member.port)

    def wanted(self) -> dict[str, Placed]:
        """By address, how HAProxy should have the instances."""
        return scaled({member.address: self.placed(member) for member in self.members.values()})

    def placed(self, member: Member) -> Placed:
        """How HAProxy should have an instance that Consul holds as `member` says."""
        passing, warning = member.weights
        if member.maintenance or member.node in self.maintained_nodes:
            return Placed("drain", passing)
        match member.status:
            case "passing":
                return Placed("ready", passing)
            case "warning":
                return Placed("ready", warning, passing)
            case "critical":
                return Placed("maint", passing)

    def serving(self) -> list[Member]:
        """The instances that get traffic."""
        return [member for member in self.members.values() if self.placed(member).state == "ready"]
