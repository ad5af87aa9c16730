"""Foreign servers that a reload would take out are found, counted and named."""

import attrs
import pytest
from hypothesis import given, strategies as st

import hapsync.haproxy.foreign
from hapsync.errors import WouldLose
from hapsync.haproxy.cfg import observed_from_file
from hapsync.haproxy.foreign import Loss, losses, refuse
from hapsync.model.catalog import Doubt
from hapsync.model.server import Address, AdminState, Backend, CheckStatus, FirstCheck, Observed, Server
from hapsync.plan.desired import Desired, DesiredBackend, DesiredServer
from hapsync.plan.guard import Caution
from hapsync.plan.target import TargetState

READY, MAINT = AdminState.READY, AdminState.MAINT


def at(number: int) -> Address:
    return Address(f"10.0.0.{number}", 80)


def server(name: str, number: int, admin: AdminState = READY, *, is_up: bool = True) -> Server:
    return Server(name, at(number), admin, 1, is_up=is_up)


def wanted(*numbers: int, doubt: Doubt | None = None) -> Desired:
    servers = (DesiredServer(at(one), READY, 1, "n", f"web-{one}", CheckStatus.PASSING) for one in numbers)
    return Desired({"web": DesiredBackend("web", 4, tuple(servers), doubt=doubt)})


def seen(*foreign: Server, slots: tuple[Server, ...] = ()) -> Observed:
    return Observed({"web": Backend("web", slots, foreign)})


def target(*numbers: int) -> TargetState:
    return TargetState({"web": Backend("web", tuple(server(f"srv{one}", one) for one in numbers))})


def lost(
    observed: Observed, *numbers: int, text: str = "", doubt: Doubt | None = None, caution: Caution | None = None
) -> Loss | None:
    """What goes where Consul names these servers, and all of them are in the picture."""
    file = f"backend web\n{text}"
    cautions = {"web": caution} if caution is not None else {}
    found = losses(observed, file, target(*numbers), wanted(*numbers, doubt=doubt), cautions)
    return found[0] if found else None


FIVE = tuple(server(f"old{number}", number) for number in range(1, 6))


def test_what_consul_names_is_no_loss() -> None:
    assert lost(seen(*FIVE), 1, 2, 3, 4, 5) is None


def test_more_than_the_guard_lets_go_is_held() -> None:
    loss = lost(seen(*FIVE), 1)
    assert loss is not None
    assert loss.deferred == "1 would be left, and the guard keeps 3"
    with pytest.raises(WouldLose, match=r"old2 10\.0\.0\.2:80, old3") as caught:
        refuse([loss])
    assert caught.value.names == {"web": {"old2", "old3", "old4", "old5"}}


def test_as_much_as_the_guard_lets_go_is_named_and_goes() -> None:
    loss = lost(seen(*FIVE), 1, 2, 3)
    assert loss is not None
    assert loss.lines == ("web/old4 10.0.0.4:80", "web/old5 10.0.0.5:80")
    refuse([loss])


def test_newcomers_do_not_count_for_those_who_would_go() -> None:
    loss = lost(seen(*FIVE), 11, 12, 13, 14, 15)
    assert loss is not None
    assert loss.deferred == "0 would be left, and the guard keeps 3"


def test_newcomers_count_once_haproxy_has_checked_them() -> None:
    slots = tuple(server(f"srv{one}", one) for one in range(11, 16))
    loss = lost(seen(*FIVE, slots=slots), 11, 12, 13, 14, 15)
    assert loss is not None
    assert loss.deferred is None
    unchecked = tuple(attrs.evolve(one, first_check=FirstCheck.MISSING) for one in slots)
    loss = lost(seen(*FIVE, slots=unchecked), 11, 12, 13, 14, 15)
    assert loss is not None
    assert loss.deferred is not None


@pytest.mark.parametrize("doubt", [Doubt.AWAY, Doubt.FILTERED])
def test_nothing_goes_on_doubt(doubt: Doubt) -> None:
    loss = lost(seen(*FIVE), 1, 2, 3, 4, doubt=doubt)
    assert loss is not None
    assert loss.deferred == doubt.value


def message(*deferred: Loss) -> str:
    with pytest.raises(WouldLose) as caught:
        refuse(deferred)
    return str(caught.value)


def test_what_is_in_doubt_is_offered_to_nobody_to_be_let_go() -> None:
    sure, doubted = lost(seen(*FIVE), 1), lost(seen(*FIVE), 1, doubt=Doubt.AWAY)
    (unread,) = losses(seen(*FIVE), "backend web\n", target(1), Desired({}), {})
    assert sure is not None
    assert doubted is not None
    other = attrs.evolve(sure, backend="api")

    assert "release them alone with `hapsync release web` (without an agent `hapsync apply --force`" in message(sure)
    for one in (message(doubted), message(unread)):
        assert "wait until Consul is trusted again" in one
        assert "hapsync release" not in one
        assert "--force" not in one
    mixed = message(doubted, other)  # --force would be about all backends
    assert "with `hapsync release api`" in mixed
    assert "--force" not in mixed


def test_nothing_goes_where_the_service_could_not_be_read() -> None:
    (loss,) = losses(seen(*FIVE), "backend web\n", target(1, 2, 3, 4), Desired({}), {})
    assert loss.deferred == "its service could not be read"


def test_what_a_person_let_go_goes_and_nothing_else() -> None:
    everybody = Caution(let_go=frozenset({"old2", "old3", "old4", "old5"}))
    loss = lost(seen(*FIVE), 1, caution=everybody)
    assert loss is not None
    assert loss.deferred is None
    loss = lost(seen(*FIVE, server("other", 9)), 1, caution=everybody)
    assert loss is not None
    assert loss.deferred is not None


@pytest.mark.parametrize(
    "text",
    [
        "server old2 10.0.0.2:80\n",
        "  server old2 other:81 check\n",
        "server-template old 1-5 _http._tcp.x\n",
        "server $NAME 10.0.0.2:80\n",
        'server "old${N}" 10.0.0.2:80\n',
    ],
)
def test_a_server_that_has_a_line_in_the_new_file_is_no_loss(text: str) -> None:
    assert lost(seen(server("old2", 2)), text=text) is None


@pytest.mark.parametrize(
    "text", ["server old2 10.0.0.2:80 disabled\n", "# server old2 a:80\n", "server old22 a:80\n"]
)
def test_a_line_that_brings_it_back_disabled_or_is_another_ones_is_none(text: str) -> None:
    assert lost(seen(server("old2", 2)), text=text) is not None


def test_what_gets_no_traffic_costs_nothing() -> None:
    assert lost(seen(server("old1", 1, MAINT)), 2) is None
    loss = lost(seen(server("old1", 1, is_up=False)), 2)
    assert loss is not None
    assert (loss.lines, loss.deferred) == (("web/old1 10.0.0.1:80 (down now)",), None)


def test_a_file_is_read_for_the_foreign_servers_that_it_starts() -> None:
    text = (
        "backend web\n server a 10.0.0.1:80 check\n server b [::1]:81 weight 0\n server c host:80\n"
        " server d 10.0.0.4:80 disabled\n server srv1 10.0.0.5:80 weight 1\nbackend other\n server e 10.0.0.6:80\n"
    )
    found = observed_from_file(text, ("web",), with_foreign=True).backends["web"].foreign
    assert [(one.name, one.address, one.can_serve) for one in found] == [
        ("a", at(1), True),
        ("b", Address("::1", 81), False),
        ("c", None, True),
    ]


NUMBERS = st.sets(st.integers(1, 12), max_size=8)


@given(static=NUMBERS, kept=NUMBERS, consul=NUMBERS, fraction=st.floats(0, 1), least=st.integers(0, 4))
def test_no_reload_that_is_let_through_leaves_less_than_the_guard_keeps(
    static: set[int], kept: set[int], consul: set[int], fraction: float, least: int
) -> None:
    caution = Caution(max_loss_fraction=fraction, min_ready=least)
    observed = seen(*(server(f"old{one}", one) for one in sorted(static)))
    text = "".join(f" server old{one} 10.0.0.{one}:80\n" for one in sorted(static & kept))
    loss = lost(observed, *sorted(consul), text=text, caution=caution)
    left = static & (kept | consul)
    if loss is None:
        assert left == static
    elif loss.deferred is None:
        assert len(left) >= caution.floor(len(static))
    else:
        assert len(left) < caution.floor(len(static)) or not consul


def test_the_law_notices_a_guard_that_lets_everything_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hapsync.haproxy.foreign, "_why_deferred", lambda *_: (None, False))
    with pytest.raises(AssertionError):
        test_no_reload_that_is_let_through_leaves_less_than_the_guard_keeps()
