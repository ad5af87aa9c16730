"""What holds of the guard over time, whatever Consul says, whatever HAProxy's checks find, and if hapsync restarts.

tests/test_laws_can_fail.py breaks each.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from hapsync.config.schema import BackendConfig
from hapsync.model.catalog import Doubt
from hapsync.model.changes import Add, Enable
from hapsync.model.server import AdminState
from tests.simulation import FLEET, Simulation, reading, sent_to

laws = settings(
    deadline=None,
    max_examples=150,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
EVENTS = (
    *("passing", "passing", "passing", "less", "less", "others", "dead", "alive"),
    *(
        "vanished",
        "vanished",
        "back in part",
        "backwards",
        "backwards and whole",
        "doubt",
        "restart",
        "kill",
        "wait",
        "wait",
        "release",
    ),
)


@attrs.frozen
class Event:
    """Something that happens, to some of the fleet, and the seconds until the next."""

    what: str
    some: frozenset[int]
    seconds: float


numbers = st.frozensets(st.integers(0, len(FLEET) - 1), max_size=len(FLEET))
histories = st.lists(
    st.builds(Event, st.sampled_from(EVENTS), numbers, st.sampled_from((0.1, 1.0, 1.0, 7.0, 30.0, 61.0))),
    min_size=4,
    max_size=25,
)
rhythms = st.lists(
    st.tuples(st.sampled_from((0.3, 0.5, 0.7)), st.sampled_from((0.3, 0.5, 0.7))), min_size=3, max_size=6
)
configs = st.builds(
    lambda fraction, min_ready, window: BackendConfig(
        service="web", max_loss_fraction=fraction, min_ready=min_ready, guard_window_seconds=window, slots=4
    ),
    st.sampled_from((0.5, 0.5, 0.3, 0.0, 1.0)),
    st.sampled_from((1, 1, 0, 3)),
    st.sampled_from((60.0, 60.0, 10.0)),
)


def happen(one: Simulation, event: Event) -> None:
    everything = frozenset(range(len(FLEET)))
    serving = sent_to(one.observed)
    there = {number for number in everything if FLEET[number] in serving}
    says = {
        "passing": lambda: reading(everything),
        "less": lambda: reading(there - event.some),
        "others": lambda: reading(event.some, everything - event.some),
        "vanished": lambda: reading(()),
        "back in part": lambda: reading(sorted(event.some)[:2]),
        "backwards": lambda: reading(event.some, is_backwards=True),
        "backwards and whole": lambda: reading(everything, is_backwards=True),
        "doubt": lambda: reading(event.some, doubt=Doubt.STALE),
    }
    does: Mapping[str, Callable[[], None]] = {"release": one.release, "restart": one.restart, "kill": one.kill}
    if event.what in says:
        one.said = says[event.what]()
    elif event.what in ("dead", "alive"):
        one.dead = event.some if event.what == "dead" else frozenset()
    elif event.what in does:
        does[event.what]()
    one.passes()
    one.after(event.seconds)


@laws
@given(configs, histories)
def test_what_is_taken_out_within_a_window_and_after_a_loss_never_costs_too_much(
    config: BackendConfig, history: Sequence[Event]
) -> None:
    with Simulation(config).running() as one:
        for event in history:
            happen(one, event)  # and each pass is looked at


@settings(laws, max_examples=5)
@given(rhythms, st.booleans())
def test_an_instance_that_flaps_every_second_is_entered_a_few_times_and_serves_once_it_stays(
    rhythm: Sequence[tuple[float, float]],
    is_deregistered: bool,  # noqa: FBT001
) -> None:
    with Simulation(BackendConfig(service="web")).running() as one:
        before = len(one.done)
        end, beat = one.now + 600, 0
        while one.now < end:
            down_seconds, up_seconds = rhythm[beat % len(rhythm)]
            beat += 1
            one.said = reading((0, 1, 2), () if is_deregistered else (3,))
            one.after(down_seconds)
            one.said = reading((0, 1, 2, 3))
            one.after(up_seconds)
        entered = [change for _, change in one.done[before:] if isinstance(change, Add | Enable)]

        assert 1 <= len(entered) <= 8
        assert FLEET[3] not in sent_to(one.observed)
        for _ in range(61):
            one.after(1)
        assert FLEET[3] in sent_to(one.observed)


@laws
@given(configs, histories)
def test_once_all_is_well_again_exactly_what_consul_says_serves(
    config: BackendConfig, history: Sequence[Event]
) -> None:
    config = attrs.evolve(config, max_loss_fraction=max(config.max_loss_fraction, 0.3))
    with Simulation(config).running() as one:
        for event in history:
            happen(one, event)
        one.dead = frozenset()
        for some in (range(len(FLEET)), range(4)):
            one.said = reading(some)
            for _ in range(5):  # a part of what is gone leaves in each window
                one.after(61)

            assert sent_to(one.observed) == {FLEET[number] for number in some}
        assert all(slot.admin is not AdminState.DRAIN for slot in one.slots)
