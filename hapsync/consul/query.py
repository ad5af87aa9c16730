"""The way of one question to Consul: who answers it, and how long the answer may take."""

import math

import attrs


@attrs.frozen
class Query:
    """The way of one question; by default it does not block.

    `consistency` is `cached`, `stale`, `default` or `consistent`. With an `index` above 0 the query blocks: Consul
    answers once it has something newer, or after `wait_seconds`. Beyond the wait the answer may take
    `timeout_seconds`, and the configured timeout at most.

    With `avoids_stream` a blocking query goes to Consul's servers: the agent's stream has no order by distance, and
    does not answer a query with `near` (api-docs/health; measured with 1.14.11).
    """

    consistency: str = "default"
    index: int = 0
    wait_seconds: float = 0.0
    timeout_seconds: float = math.inf
    avoids_stream: bool = False

    @property
    def held_seconds(self) -> float:
        """The longest time for which Consul holds the answer back, as asked."""
        return self.wait_seconds if self.index > 0 else 0.0

    @property
    def params(self) -> list[tuple[str, object]]:
        """The parameters of the request."""
        params: list[tuple[str, object]] = [] if self.consistency == "default" else [(self.consistency, "")]
        if self.avoids_stream:
            params.append(("near", "_agent"))
        if self.index > 0:
            params += [("index", self.index), ("wait", f"{self.wait_seconds * 1000:.0f}ms")]
        return params


NOT_BLOCKING = Query()


def uncached(consistency: str) -> str:
    """Return the consistency of plain reads, which go past the agent's cache, for the configured `consistency`."""
    return "default" if consistency == "default" else "stale"
