"""The Consul that streams, where there is one: Debian's 1.8 does not, so `$CONSUL_STREAMING` names a newer one."""

import contextlib
import os
import shutil
from collections.abc import Iterator


class NoStreamingError(Exception):
    """There is no Consul here that streams; the message says how to name one."""


@contextlib.contextmanager
def consul_of(*, is_streaming: bool) -> Iterator[None]:
    """Have the harness start the Consul that streams, or its own; raises NoStreamingError where there is none."""
    before = os.environ.get("CONSUL")
    if is_streaming:
        os.environ["CONSUL"] = streaming_consul()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CONSUL", None)
        else:
            os.environ["CONSUL"] = before


def streaming_consul() -> str:
    """Path of a Consul 1.10 or newer; raises NoStreamingError."""
    named = os.environ.get("CONSUL_STREAMING", "")
    found = shutil.which(named) if named else None
    if found is None:
        raise NoStreamingError(
            f"$CONSUL_STREAMING is {named!r}, which cannot be run"
            if named
            else "no Consul that streams: set CONSUL_STREAMING to the path of a Consul 1.10 or newer"
        )
    return found
