"""`hapsync status` says whether HAProxy is in sync, and shows each server beside what is desired of it."""

import json
from collections.abc import Mapping

import attrs

from hapsync.agent.guard_state import operator_overrides
from hapsync.agent.report_file import Report
from hapsync.config.schema import BackendConfig, Config
from hapsync.haproxy.show import Health
from hapsync.inspect.status import View, view_to_json
from hapsync.model.catalog import Catalog, Doubt, Instance, Quarantined, Reading
from hapsync.model.changes import Defect, Reason
from hapsync.model.overrides import Freeze, Override, SavedState
from hapsync.model.server import (
    NO_LOAD,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    HAProxyProcess,
    Load,
    Observed,
    Server,
)
from hapsync.plan.assessment import Rules, Verdict, assess
from hapsync.plan.desired import desired
from hapsync.plan.guard import Caution
from hapsync.plan.simulate import FREE_SLOT

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
CONFIG = Config(backends={"web": BackendConfig(service="web", slots=3)})
PROCESS = HAProxyProcess(7, "2.6.12-1", 100, is_stopping=False)
BUSY = Load(3, 2, 1, 4)
FILE = """\
backend web
    server srv1 10.0.0.1:80 weight 1 check
    server srv2 10.0.0.2:80 weight 1 check
    server srv3 127.0.0.1:1 weight 1 check disabled
"""


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def instance(number: int, status: CheckStatus = CheckStatus.PASSING, weight: int = 1) -> Instance:
    return Instance(f"n{number}", f"web-{number}", at(number), status, weight)


def catalog(*instances: Instance, quarantined: tuple[Quarantined, ...] = ()) -> Catalog:
    return Catalog({"web": Reading("web", instances, quarantined)})


def slot(
    name: int, number: int, admin: AdminState = READY, load: Load | None = NO_LOAD, weight: int | None = None
) -> Server:
    """A server as hapsync leaves it: what is not ready has no weight."""
    weight = int(admin is READY) if weight is None else weight
    return Server(f"srv{name}", at(number), admin, weight, is_up=admin is not MAINT, load=load)


FREE = attrs.evolve(FREE_SLOT, name="srv3")
BOTH = (instance(1), instance(2))
NOTHING_ASKED = SavedState()
CARELESS = {"web": Caution(max_loss_fraction=1.0, min_ready=0)}


def seen(*slots: Server, foreign: tuple[Server, ...] = ()) -> Observed:
    return Observed({"web": Backend("web", slots, foreign)})


def view(
    catalog: Catalog | None,
    observed: Observed | None,
    *,
    file_text: str | None = FILE,
    problems: tuple[str, ...] = (),
    health: Mapping[tuple[str, str], Health] = {},
    config: Config = CONFIG,
    report: Report | None = None,
    cautions: Mapping[str, Caution] = {},
    stopped: Reason | None = None,
    saved: SavedState = NOTHING_ASKED,
) -> View:
    wanted = attrs.evolve(desired(catalog or Catalog({}), config), overrides=operator_overrides(saved))
    rules = Rules(cautions, stopped, saved=saved)
    return View(
        config=config,
        seen=assess(PROCESS, observed, wanted, rules) if observed is not None else None,
        desired=wanted,
        has_catalog=catalog is not None,
        rules=rules,
        catalog_from="consul",
        catalog_age_seconds=0.5,
        health=health,
        file_text=file_text,
        report=report,
        problems=problems,
    )


IN_SYNC = view(catalog(*BOTH), seen(slot(1, 1), slot(2, 2), FREE))


def test_haproxy_is_in_step_when_nothing_is_due_and_the_file_says_the_same() -> None:
    assert IN_SYNC.verdict is Verdict.IN_SYNC
    assert IN_SYNC.reasons == ()


def test_the_verdict_is_the_exit_code() -> None:
    assert [verdict.value for verdict in (Verdict.IN_SYNC, Verdict.CANNOT_TELL, Verdict.OUT_OF_SYNC)] == [0, 1, 2]


def test_whatever_is_due_puts_it_out_of_sync() -> None:
    found = view(catalog(instance(1, weight=5), instance(3)), seen(slot(1, 1), slot(2, 2), FREE))

    assert found.verdict is Verdict.OUT_OF_SYNC
    assert found.reasons == (
        "due: add web/srv3 10.0.0.3:80 weight 1 (passing)",
        "due: weight web/srv1 10.0.0.1:80 1 -> 5",
        "due: remove web/srv2 10.0.0.2:80 (gone from Consul)",
        "/etc/haproxy/haproxy.cfg differs from the running HAProxy",
    )


def test_a_shortage_puts_it_out_of_sync() -> None:
    found = view(catalog(instance(1), instance(9)), seen(slot(1, 1), slot(2, 2)))

    assert found.verdict is Verdict.OUT_OF_SYNC
    assert "grow web: no free slot for 1 server: 10.0.0.9:80" in found.reasons


def test_what_waits_for_its_replacement_is_said() -> None:
    found = view(catalog(instance(8), instance(9)), seen(slot(1, 1)), cautions=CARELESS)

    assert "waits: remove web/srv1 10.0.0.1:80 (gone from Consul)" in found.reasons


def test_a_file_that_differs_or_lacks_puts_it_out_of_sync() -> None:
    observed = seen(slot(1, 1), slot(2, 2), FREE)

    for text, reason in (
        (FILE.replace("10.0.0.1", "10.0.0.9"), "differs from the running HAProxy"),
        (None, "not exist"),
    ):
        found = view(catalog(*BOTH), observed, file_text=text)

        assert found.verdict is Verdict.OUT_OF_SYNC
        assert len(found.reasons) == 1
        assert reason in found.reasons[0]


LAST_TWO = {"web": Caution(min_ready=2)}


def test_a_service_that_is_gone_whole_is_an_alarm() -> None:
    found = view(catalog(), seen(slot(1, 1), slot(2, 2), FREE))

    assert found.verdict is Verdict.OUT_OF_SYNC
    assert found.reasons == ("backend web: 2 servers kept, the whole service is gone from Consul",)
    assert [deferred.change.server for deferred in found.plan.deferred] == ["srv1", "srv2"]


def test_what_the_guard_keeps_for_a_while_or_is_quarantined_does_not_put_it_out_of_sync() -> None:
    left_out = Quarantined("n9", "web-9", "it has no address")
    found = view(catalog(instance(1), quarantined=(left_out,)), seen(slot(1, 1), slot(2, 2), FREE), cautions=LAST_TWO)

    assert found.verdict is Verdict.IN_SYNC
    assert [(deferred.change.server, deferred.reason) for deferred in found.plan.deferred] == [
        ("srv2", Reason.MIN_READY)
    ]
    assert found.backends[0].want.quarantined == (left_out,)


def test_it_cannot_tell_without_haproxy() -> None:
    found = view(catalog(*BOTH), None, problems=("HAProxy's socket /x: does not exist",))

    assert found.verdict is Verdict.CANNOT_TELL
    assert found.reasons == ("HAProxy's socket /x: does not exist",)
    assert found.seen is None
    assert found.backends[0].without_slot


def test_it_cannot_tell_without_a_catalog() -> None:
    found = view(None, seen(slot(1, 1), slot(2, 2), FREE), problems=("Consul refuses",))

    assert found.verdict is Verdict.CANNOT_TELL
    assert found.reasons == ("Consul refuses",)
    assert not found.backends[0].is_known


def test_it_cannot_tell_of_a_service_that_was_not_read() -> None:
    config = Config(backends={**CONFIG.backends, "api": BackendConfig(service="a\npi")})
    found = view(catalog(*BOTH), seen(slot(1, 1), slot(2, 2), FREE), config=config)

    assert found.verdict is Verdict.CANNOT_TELL
    assert found.reasons == ('service "a\\npi" was not read yet',)
    assert [backend.is_known for backend in found.backends] == [False, True]


def test_every_server_stands_beside_what_is_desired_of_it() -> None:
    foreign = attrs.evolve(slot(1, 9), name="mine")
    observed = seen(slot(1, 1), slot(2, 8), slot(3, 7, MAINT, BUSY), FREE, slot(10, 2, DRAIN), foreign=(foreign,))
    (backend,) = view(catalog(*BOTH, instance(5)), observed).backends
    rows = [(row.server.name, row.use, row.desired.instance_id if row.desired else None) for row in backend.rows]

    assert rows == [
        ("srv1", "used", "web-1"),
        ("srv2", "used", None),
        ("srv3", "emptying", None),
        ("srv3", "free", None),
        ("srv10", "used", "web-2"),
        ("mine", "foreign", None),
    ]
    assert (backend.slots_used, backend.slots("free"), backend.slots("emptying")) == (3, 1, 1)
    assert [one.instance_id for one in backend.without_slot] == ["web-5"]


def test_of_two_slots_with_one_address_the_one_that_serves_is_shown_as_desired() -> None:
    (backend,) = view(catalog(instance(1)), seen(slot(1, 1, MAINT), slot(2, 1))).backends

    assert [row.desired is not None for row in backend.rows] == [False, True]


def test_a_backend_that_haproxy_lacks_is_shown_with_all_its_instances() -> None:
    (backend,) = view(catalog(*BOTH), Observed({"web": Backend("web", exists=False)})).backends

    assert not backend.have.exists
    assert [one.instance_id for one in backend.without_slot] == ["web-1", "web-2"]


def test_the_json_is_the_documented_one() -> None:
    left_out = Quarantined("n\n9", "web-9", "it has no address")
    found = view(
        catalog(instance(1), instance(9), quarantined=(left_out,)),
        seen(slot(1, 1, load=BUSY), attrs.evolve(slot(2, 2), address=None, load=None)),
        health={("web", "srv1"): Health("DOWN", "L4CON refused", 3)},
        report=Report(pid=1, started_at=1.0, written_at=2.0, hapsync_version="0", in_sync=False),
    )
    tree = json.loads(view_to_json(found))
    desired = {
        "address": "10.0.0.1:80",
        "state": "ready",
        "weight": 1,
        "consul_weight": None,
        "consul": "passing",
        "node": "n1",
        "service_id": "web-1",
    }

    assert list(tree) == [
        *("version", "sync", "haproxy", "catalog", "counts", "backends", "deferred"),
        *("freeze", "overrides", "state_file", "stopped", "old_workers", "queues", "defects", "agent"),
    ]
    assert (tree["version"], tree["sync"]["verdict"]) == (2, "out_of_sync")
    assert tree["sync"]["reasons"] == list(found.reasons)
    assert tree["haproxy"] == {"pid": 7, "version": "2.6.12-1", "uptime_seconds": 100, "is_stopping": False}
    assert tree["catalog"] == {"from": "consul", "age_seconds": 0.5}
    assert tree["counts"] == {"deferred": 0, "quarantined": 1}
    assert tree["agent"]["pid"] == 1
    assert (tree["deferred"], tree["freeze"], tree["overrides"], tree["stopped"]) == ([], None, [], None)
    assert tree["state_file"] == {"lost": None, "other_version": None}
    assert tree["backends"]["web"] == {
        "service": "web",
        "exists": True,
        "known": True,
        "doubt": None,
        "capacity": 2,
        "floor": 1,
        "refilling": False,
        "unread": None,
        "stale_overrides": [],
        "slots": {"used": 2, "free": 0, "emptying": 0},
        "dynamic": 0,
        "scaling": {"dynamic": False, "why_not": None},
        "servers": [
            {
                "server": "srv1",
                "use": "used",
                "address": "10.0.0.1:80",
                "state": "ready",
                "weight": 1,
                "up": True,
                "sessions": 3,
                "queued": 2,
                "connections": {"used": 1, "idle": 4},
                "check": "L4CON refused",
                "status": "DOWN",
                "desired": desired,
            },
            {
                "server": "srv2",
                "use": "used",
                "address": None,
                "state": "ready",
                "weight": 1,
                "up": True,
                "sessions": None,
                "queued": None,
                "connections": None,
                "check": None,
                "status": None,
                "desired": None,
            },
        ],
        "without_slot": [{**desired, "address": "10.0.0.9:80", "node": "n9", "service_id": "web-9"}],
        "quarantined": [{"node": "n\n9", "service_id": "web-9", "reason": "it has no address"}],
    }


def test_a_promise_that_the_agent_would_have_broken_puts_it_out_of_sync() -> None:
    report = Report(1, 1.0, 2.0, "0", in_sync=False, defects=(Defect("web", "No server leaves on a doubt."),))
    found = view(catalog(*BOTH), seen(slot(1, 1), slot(2, 2)), report=report)
    tree = json.loads(view_to_json(found))

    assert found.verdict is Verdict.OUT_OF_SYNC
    assert any("defect" in one and "No server leaves on a doubt." in one for one in found.reasons)
    assert tree["defects"] == [{"backend": "web", "promise": "No server leaves on a doubt."}]


def test_the_json_is_ascii_and_shows_reasons_escaped() -> None:
    text = view_to_json(view(catalog(*BOTH), None, problems=("a\x1b[2J\u2028é",)))

    assert text.isascii()
    assert json.loads(text)["sync"]["reasons"] == ["a\\u001b[2J\\u2028\\u00e9"]
    assert json.loads(text)["agent"] is None


def test_the_json_tells_what_is_held_and_what_waits() -> None:
    gone = json.loads(view_to_json(view(catalog(), seen(slot(1, 1)))))
    short = json.loads(view_to_json(view(catalog(instance(8), instance(9)), seen(slot(1, 1)), cautions=CARELESS)))
    deferred = {"backend": "web", "server": "srv1", "change": "remove web/srv1 10.0.0.1:80 (gone from Consul)"}

    assert gone["deferred"] == [{**deferred, "reason": "the whole service is gone from Consul"}]
    assert gone["counts"] == {"deferred": 1, "quarantined": 0}
    assert short["deferred"] == [{**deferred, "reason": "its replacement has no slot yet"}]
    assert short["counts"] == {"deferred": 0, "quarantined": 0}


def test_a_server_held_by_hand_is_shown_so_and_breaks_nothing() -> None:
    observed = seen(slot(1, 1), slot(2, 2, MAINT, weight=1), FREE)
    found = view(
        catalog(*BOTH),
        observed,
        file_text=FILE.replace("10.0.0.2:80 weight 1 check", "10.0.0.2:80 weight 1 disabled"),
    )

    assert found.verdict is Verdict.IN_SYNC
    assert [row.use for row in found.backends[0].rows] == ["used", "overridden", "free"]
    assert [deferred.reason for deferred in found.plan.deferred] == [Reason.OVERRIDDEN]
    assert (found.backends[0].slots_used, found.backends[0].slots("free")) == (2, 1)


HOLD = Override("web", at(2), MAINT, 5.0, None, "ann", "a disk")
FREEZE = Freeze(6.0, None, "bob", "a migration")


def test_what_persons_asked_for_is_shown() -> None:
    found = view(
        catalog(*BOTH), seen(slot(1, 1), slot(2, 2, MAINT, weight=1), FREE), saved=SavedState(FREEZE, (HOLD,))
    )
    tree = json.loads(view_to_json(found))

    assert (found.rules.saved.freeze, found.rules.saved.holds) == (FREEZE, (HOLD,))
    assert tree["freeze"] == {"at": 6.0, "until": None, "who": "bob", "reason": "a migration"}
    assert tree["overrides"] == [
        {
            "backend": "web",
            "address": "10.0.0.2:80",
            "state": "maint",
            "is_releasing": False,
            "at": 5.0,
            "until": None,
            "who": "ann",
            "reason": "a disk",
        }
    ]


def test_that_everything_is_frozen_is_said_first_and_by_whose_word() -> None:
    observed = seen(slot(1, 1), slot(2, 2), FREE)
    found = view(catalog(*BOTH, instance(3)), observed, stopped=Reason.FROZEN, saved=SavedState(FREEZE))

    assert found.reasons[0] == (
        "nothing is changed: everything is frozen, by bob: a migration; `hapsync thaw` ends it"
    )
    assert found.verdict is Verdict.OUT_OF_SYNC
    assert json.loads(view_to_json(found))["stopped"] == "everything is frozen"


def test_what_the_guard_goes_by_is_shown() -> None:
    doubted = Catalog({"web": Reading("web", BOTH[:1], doubt=Doubt.AWAY)})
    caution = Caution(peak=9, is_refilling=True)
    found = view(doubted, seen(slot(1, 1), slot(2, 2), FREE), cautions={"web": caution})
    (backend,) = found.backends

    assert found.verdict is Verdict.CANNOT_TELL
    assert found.reasons == ('service "web": Consul does not answer', *found.reasons[1:])
    assert [deferred.reason for deferred in found.plan.deferred] == [Reason.AWAY]
    assert (backend.want.doubt, backend.capacity, backend.floor) == (Doubt.AWAY, 2, 5)
    assert backend.caution.is_refilling
