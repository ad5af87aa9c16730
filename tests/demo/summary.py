"""What the demo ends with."""

import math
import statistics
from collections.abc import Sequence

from attrs import frozen


@frozen
class Summary:
    """The demo in figures; `latencies_ms` are of the changes made without a reload."""

    requests: int
    failed: int
    failures: tuple[str, ...]
    runtime_changes: int
    reloads: int
    replacements: int
    replaced_too_early: bool
    latencies_ms: Sequence[float]
    differences: Sequence[str]
    out_of_sync: str

    def lines(self) -> list[str]:
        """The table."""
        count = len(self.latencies_ms)
        rows = (
            ("requests", f"{self.requests}"),
            ("failed", f"{self.failed}"),
            ("runtime changes", f"{self.runtime_changes}"),
            ("reloads", f"{self.reloads}"),
            ("worker replacements", f"{self.replacements}"),
            ("change-to-live, median", f"{statistics.median(self.latencies_ms):.1f} ms  of {count} changes"),
            ("change-to-live, 99th percentile", f"{percentile(self.latencies_ms, 0.99):.1f} ms"),
            ("final state", "differs" if self.differences else "as Consul says"),
        )
        return [f"  {name:<33}{value}" for name, value in rows]

    def problems(self) -> list[str]:
        """What should not be, a line each; empty when the demo showed what it promises."""
        found = [f"a request failed: {failure}" for failure in self.failures]
        if self.failed > len(self.failures):
            found.append(f"{self.failed} requests failed")
        if self.reloads != 1:
            found.append(f"{self.reloads} reloads instead of one")
        if self.replacements != 1:
            found.append(f"the worker was replaced {self.replacements} times instead of once")
        if self.replaced_too_early:
            found.append("the worker was replaced before the slots ran out")
        found += [f"HAProxy differs from Consul: {difference}" for difference in self.differences]
        if self.out_of_sync:
            found.append(f"hapsync status does not say in sync: {self.out_of_sync}")
        return found


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * part) - 1)]
