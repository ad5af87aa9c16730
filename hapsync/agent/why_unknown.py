"""Whether HAProxy is as Consul says, and why that cannot be told."""

from collections.abc import Mapping, Sequence

from hapsync.agent.file_keeper import FileKeeper
from hapsync.agent.liveness import Liveness
from hapsync.agent.schedule import Schedule
from hapsync.agent.settings import Settings
from hapsync.config.schema import Config
from hapsync.consul.watch import WatchState
from hapsync.model.catalog import NOT_TELLING
from hapsync.plan.assessment import untold
from hapsync.plan.desired import Desired
from hapsync.plan.rollout import Rollout


def why_unknown(
    config: Config, wanted: Desired, watches: Mapping[str, WatchState], rollout: Rollout[Settings]
) -> Sequence[str]:
    """Return why it cannot be told whether HAProxy is as Consul and the settings say, a line each."""
    errors = {service: state.error for service, state in watches.items() if state.error is not None}
    lines = [*untold(config, wanted, errors)]
    if rollout.problem:
        lines.append(rollout.problem)
    elif rollout.settings_due_seconds is not None:
        lines.append(f"{rollout.settings_why}: HAProxy is brought there in a moment")
    return lines


def is_in_sync(
    wanted: Desired,
    haproxy: Liveness,
    schedule: Schedule,
    rollout: Rollout[Settings],
    file: FileKeeper,
    *,
    is_whole: bool,
) -> bool:
    """Return whether HAProxy and its file are known to be what is `wanted`.

    `is_whole`: every backend was looked at, and nothing was withheld there because everything is stopped.
    """
    is_told = haproxy.process is not None and not any(one.doubt in NOT_TELLING for one in wanted.backends.values())
    return is_told and is_whole and not (rollout.is_due or schedule.is_unfinished or file.is_behind)
