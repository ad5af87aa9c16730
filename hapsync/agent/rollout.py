"""When to reload, with what settings, and what came of it; the check of a candidate runs beside the passes."""

import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping

from hapsync.agent.check_job import CheckJob
from hapsync.agent.config_file import Candidate, is_applied
from hapsync.agent.half_reload import noted
from hapsync.agent.live_backends import WholeBackends, can_have
from hapsync.agent.quarantine import quarantined
from hapsync.agent.settings import Settings
from hapsync.consul.semaphore import PermitRequest
from hapsync.errors import HapsyncError, ReloadUnavailable, WouldLose
from hapsync.haproxy.cfg_diff import Difference, difference
from hapsync.haproxy.foreign import refuse
from hapsync.haproxy.reload import check_text, reload_into
from hapsync.model.server import HAProxyProcess
from hapsync.plan.desired import Desired
from hapsync.plan.growth import Need, needed
from hapsync.plan.plan import Plan, describe_shortage
from hapsync.system.files import read_text_or_none

log = logging.getLogger(__name__)

EDITED = "the template or hapsync.toml changed"
UNAVAILABLE_SECONDS = 2.0
"""A reload that could not be begun is tried again after this long, or after the gap if that is longer."""
LOSS_SECONDS = 10.0
"""A reload that would lose foreign servers is looked at again after this long: they may be in Consul by then."""
REFUSED_SECONDS = 60.0
REFUSED_LIMIT_SECONDS = 3600.0
"""What was refused is tried again after this long, then after twice as long each time, up to the limit: what the
check command says may be about a certificate or a map that somebody is just replacing."""
_CHECKS = 3
"""What HAProxy should have may change while a candidate is checked; after so many tries it is checked at once."""


class Reloads:
    """What asks for a reload: slots that ran out (`need`), or settings that HAProxy was not made from.

    `is_doubted`: the worker may have been started from an older file than the one that stands.
    All methods are the worker's; only the check of a candidate runs beside it.
    """

    def __init__(self, when_done: Callable[[], None], whole: WholeBackends) -> None:
        """Take what wakes the worker when a candidate was checked, and what may make a reload needless."""
        self.need: Need | None = None
        self.new_settings_at: float | None = None
        self.new_settings_why = EDITED
        self.previous: Settings | None = None
        self.not_taken: str | None = None
        self.is_doubted = False
        self._losing: Mapping[str, frozenset[str]] = {}
        self._given_up: Mapping[str, frozenset[str]] = {}
        self._settings_error: str | None = None
        self._quarantined: Mapping[str, str] = {}
        self._when_done = when_done
        self._whole = whole
        self._reloaded_at: float | None = None
        self._not_before = 0.0
        self._refused: tuple[Desired, Settings] | None = None
        self._refused_until = 0.0
        self._refused_seconds = REFUSED_SECONDS
        self._job: CheckJob | None = None
        self._permit: PermitRequest | None = None
        self._checks = 0
        self._is_live_refused = False

    @property
    def is_due(self) -> bool:
        """Something asks for a reload, now or later."""
        return self.need is not None or self.new_settings_at is not None

    def is_for_settings_because(self, why: str) -> bool:
        """Whether settings that changed for this reason, `new_settings_why`, ask for a reload."""
        return self.new_settings_at is not None and self.new_settings_why == why

    @property
    def losing(self) -> Mapping[str, frozenset[str]]:
        """The foreign servers, by backend, for whose sake a reload was not made that is still due.

        So are those for whose sake settings are `not_taken`: what people are told of them stays in force until the
        settings are read again, whatever reloads are made meanwhile.
        """
        return {**self._given_up, **(self._losing if self.is_due else {})}

    @property
    def short(self) -> frozenset[str]:
        """The backends that are short of slots."""
        return frozenset(shortage.backend for shortage in self.need.shortages) if self.need else frozenset()

    @property
    def settings_problem(self) -> str | None:
        """What became of the operator's settings where not all of them are live or on their way, in words.

        `not_taken` is about some that were given up, so no reload mends it; `_settings_error` about those at hand.
        """
        error = self.not_taken or self._settings_error
        if error:
            return f"settings not taken: {error}"
        return f"settings taken, but {'; '.join(self._quarantined.values())}" if self._quarantined else None

    @property
    def waits_for(self) -> str | None:
        """What a reload that is due waits for in its group, in words; None where it does not."""
        return (
            self._permit.waits_for or None if self._permit is not None and not self._permit.is_come.is_set() else None
        )

    def release_permit(self) -> None:
        """Give back what this balancer holds or asks for in its group: no reload is being made."""
        if self._permit is not None:
            self._permit.give_back()
            self._permit = None

    def _has_permit(self, settings: Settings) -> bool:
        """Return whether a reload may go on; where the group is to be asked, that is begun, and wakes the worker."""
        fleet = settings.config.fleet
        if fleet is None:
            self.release_permit()
            return True
        if self._permit is not None and self._permit.is_lost:
            self.release_permit()
        if self._permit is None:
            self._permit = PermitRequest(
                settings.config.consul,
                fleet.group,
                fleet.reloads_at_once,
                value=f"{socket.gethostname()} pid {os.getpid()}: {self.why}",
                acquire_timeout_seconds=fleet.acquire_timeout_seconds,
                when_come=self._when_done,
            )
            self._permit.start()
        return self._permit.is_come.is_set()

    def try_again(self) -> None:
        """What was refused may have been mended."""
        self._refused = None
        self._refused_seconds = REFUSED_SECONDS
        self._not_before = 0.0
        self._is_live_refused = False

    def read_again(self) -> None:
        """The operator's files are read anew: what is known of the last reading does not count any more."""
        self.try_again()
        self._losing = self._given_up = {}
        self.not_taken = self._settings_error = None
        self._quarantined = {}

    def forget_need(self) -> None:
        """HAProxy is another, or away: what it lacks is to be read anew."""
        self.need = None
        self.release_permit()

    def look_whether_applied(self, settings: Settings, reload_at: float) -> None:
        """Ask for a reload at `reload_at` if the running HAProxy was not made from the settings at hand."""
        try:
            applied = is_applied(settings, read_text_or_none(settings.config.haproxy.config)) and not self.is_doubted
        except (HapsyncError, OSError, ValueError) as error:
            log.error("template not usable: %s", error)  # noqa: TRY400
            applied = False
        self.new_settings_at = None if applied else reload_at
        self._is_live_refused = False
        if applied:
            self._settings_error = None
        if not self.is_due:
            self.release_permit()

    def doubt_worker(self) -> None:
        """The worker may be older than the file, which says nothing of it then: ask for a reload."""
        self.is_doubted = True
        self.new_settings_at, self.new_settings_why = time.monotonic(), "HAProxy may run with an older file"

    def take(self, plan: Plan, backends: set[str]) -> None:
        """Note what a pass over `backends` left short of slots."""
        others = [one for one in (self.need.shortages if self.need else ()) if one.backend not in backends]
        shortages = sorted((*others, *plan.shortages), key=lambda shortage: shortage.backend)
        self.need = needed(self.need, shortages, time.monotonic())
        if not self.is_due:
            self.release_permit()

    def due_seconds(self, settings: Settings, attempt: tuple[Desired, Settings], *, is_told: bool) -> float | None:
        """Return when to call `step`, on the monotonic clock: once the need has settled, and not within the gap.

        `is_told`: all services were read, so that changed settings need not wait for the catalog. None: not now.
        """
        if self._job is not None:
            return time.monotonic() if self._job.is_done.is_set() else None
        settings_at = time.monotonic() if self.new_settings_at and is_told else self.new_settings_at
        if self._permit is not None and not self._permit.is_come.is_set():
            return None
        causes = [at for at in (settings_at, self.need.due_seconds if self.need else None) if at is not None]
        if not causes:
            return None
        at = max(self._not_before, min(causes))
        if self._refused == attempt:
            at = max(at, self._refused_until)
        if self._reloaded_at is not None:
            at = max(at, self._reloaded_at + settings.config.haproxy.reload_gap_seconds)
        return at

    def attempt(self, wanted: Desired, settings: Settings) -> tuple[Desired, Settings]:
        """Return what a reload would be made for: the same again is not worth another try."""
        if self.new_settings_at is not None or self.need is None:
            return wanted, settings
        return wanted.only(self.short), settings

    @property
    def why(self) -> str:
        """What asks for the reload, in words."""
        shortages = self.need.shortages if self.need else ()
        whys = [" ".join(describe_shortage(shortage).split()) for shortage in shortages]
        if self.new_settings_at is not None:
            whys.insert(0, self.new_settings_why)
        return "; ".join(whys)

    def step(
        self,
        settings: Settings,
        candidate_for: Callable[[Collection[str]], Candidate],
        process: HAProxyProcess | None,
        made_live: Callable[[Difference], None],
    ) -> HAProxyProcess | Difference | None:
        """Begin the check of a candidate, or bring HAProxy to one that was accepted; return what was done, or None.

        `candidate_for` returns the candidate with more slots for some backends.

        That is a reload, unless the worker `process` can be brought there without one: then `made_live` is told of
        it, and makes a pass.

        Raises RuntimeAPIError where HAProxy does not answer; HapsyncError or OSError where the reload was not made.
        """
        job, self._job = self._job, None
        if not self.is_due:
            self.release_permit()
            return None
        candidate = candidate_for(self.short)
        live = self._difference(settings, candidate, process)
        if live is None:
            refuse(candidate.lost)
            if not self._has_permit(settings):
                return None
        is_checked = job is not None and (job.settings, job.candidate.text) == (settings, candidate.text)
        if is_checked and job is not None and job.error is not None:
            raise job.error
        if not is_checked and self._checks < _CHECKS:
            self._checks += 1
            self._job = CheckJob(candidate, settings, self._when_done)
            self._job.start()
            return None
        if live is not None:
            if not is_checked:
                check_text(settings.config.haproxy, candidate.text)
            return self._make_live(settings, live, made_live)
        self._checks = 0
        haproxy, pid = settings.config.haproxy, process.pid if process is not None else 0
        with noted(settings.config, pid, candidate.text):
            made = reload_into(
                haproxy, candidate.text, candidate.target, is_checked=is_checked, next_socket=settings.next_socket
            )
        for loss in candidate.lost:
            log.warning("the reload took out foreign servers: %s", ", ".join(loss.lines))
        return made

    def _difference(
        self, settings: Settings, candidate: Candidate, process: HAProxyProcess | None
    ) -> Difference | None:
        """Return what is to be added and deleted live; None where that does not do."""
        if self._is_live_refused or self.is_doubted:
            return None
        live = difference(read_text_or_none(settings.config.haproxy.config) or "", candidate.text)
        if live is None or not self.short <= {one.name for one in live.new}:
            return None
        return live if can_have(process) or live == Difference() else None

    def _make_live(
        self, settings: Settings, live: Difference, made_live: Callable[[Difference], None]
    ) -> Difference | None:
        begin = time.monotonic()
        refused = self._whole.make(settings.config, live, made_live)
        if refused is not None:
            log.warning("backends not added or deleted live: %s; HAProxy is reloaded", refused)
            self._is_live_refused = True
            return None
        self._checks = 0
        log.info("no reload needed ms=%.1f why: %s", (time.monotonic() - begin) * 1000, self.why)
        return live

    def made(self, what: HAProxyProcess | Difference) -> None:
        """The settings at hand are live; after a reload nothing asks for one any more."""
        self.previous = self._settings_error = None
        self._losing = {}
        self.new_settings_at, self.new_settings_why = None, EDITED
        if isinstance(what, HAProxyProcess):
            self.need = None
            self.is_doubted = False
            self._reloaded_at = time.monotonic()
        self.release_permit()

    def without_refused(self, settings: Settings, error: Exception) -> Settings | None:
        """Return what to try next where `error` blames only some backends' servers; None where it is a failure."""
        without = quarantined(settings, error)
        if without is None:
            return None
        self._quarantined = {**self._quarantined, **without.why}
        return without.settings

    def failed(self, error: Exception, attempt: tuple[Desired, Settings]) -> tuple[bool, Settings | None]:
        """The reload of `attempt` was not made; return whether it is tried again by itself, and what to go back to.

        That is the settings that were live before, where the reload was for others and these are given up.
        """
        self._checks = 0
        self._reloaded_at = time.monotonic()
        self.release_permit()
        self._losing = error.names if isinstance(error, WouldLose) else {}
        is_tried_again = isinstance(error, ReloadUnavailable | OSError)
        if is_tried_again:
            self._not_before = time.monotonic() + UNAVAILABLE_SECONDS
        elif self._losing and (self.new_settings_at is None or self.previous is None):
            is_tried_again = True
            self._not_before = time.monotonic() + LOSS_SECONDS
        else:
            seconds = self._refused_seconds if self._refused == attempt else REFUSED_SECONDS
            self._refused, self._refused_until = attempt, time.monotonic() + seconds
            self._refused_seconds = min(2 * seconds, REFUSED_LIMIT_SECONDS)
        if self.new_settings_at is None:
            return is_tried_again, None
        if is_tried_again or self.previous is None:
            self._settings_error = str(error)
            return is_tried_again, None
        log.error("settings not taken, the old ones stay")
        self.not_taken, self._settings_error, self._quarantined = str(error), None, {}
        self._given_up = self._losing
        previous, self.previous = self.previous, None
        return False, previous
