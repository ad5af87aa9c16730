"""HAProxy's own words are read by the names of their columns."""

from collections.abc import Collection
from pathlib import Path

import attrs
import pytest

from hapsync.errors import RuntimeAPIError
from hapsync.haproxy.show import (
    FIRST_CHECK_SECONDS,
    Health,
    Stat,
    is_learning,
    parse_info,
    parse_servers_state,
    parse_stat,
    with_first_checks,
    with_loads,
)
from hapsync.model.server import (
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    FirstCheck,
    HAProxyProcess,
    Load,
    Observed,
    Server,
)

DATA = Path(__file__).with_name("data")
STATE = (DATA / "servers_state.txt").read_text()
STAT = (DATA / "stat.csv").read_text()
INFO = (DATA / "info.txt").read_text()
"""What Debian's HAProxy 2.6.12 answered, one connection open to api/srv1."""

_COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight "
    "srv_time_since_last_change srv_check_result srv_check_state srv_port"
)
ONE = f"1\n# {_COLUMNS}\n3 web 7 srv1 10.0.0.1 2 {{admin}} 1 9 0 0 8080\n"


def stat(text: str, only: Collection[tuple[str, str]] | None = None) -> Stat:
    return parse_stat([text], ("api", "checked", "web"), only)


def rows(*lines: str, columns: str) -> str:
    """Return an answer to `show stat` with `columns`; the columns after them are empty."""
    names = columns.split(",")
    others = [name for name in STAT.removeprefix("# ").split("\n")[0].split(",") if name and name not in names]
    return "\n".join((f"# {','.join((*names, *others))},", *(line + "," * len(others) for line in lines), ""))


def backend(text: str, name: str = "web") -> Backend:
    return parse_servers_state(text, (name,)).backends[name]


def test_a_server_in_maintenance_is_a_free_slot_only_at_the_whole_placeholder_address() -> None:
    line = "3 web 7 srv1 {host} 0 1 9 0 0 0 {port}\n"
    text = f"1\n# {_COLUMNS}\n"
    elsewhere = backend(text + line.format(host="10.0.0.1", port=1)).slots[0]
    other_port = backend(text + line.format(host=PLACEHOLDER.host, port=8080)).slots[0]
    free = backend(text + line.format(host=PLACEHOLDER.host, port=PLACEHOLDER.port)).slots[0]

    assert (elsewhere.address, elsewhere.since_seconds, elsewhere.load) == (Address("10.0.0.1", 1), 0, None)
    assert (other_port.address, other_port.load) == (Address(PLACEHOLDER.host, 8080), None)
    assert free.address == PLACEHOLDER
    assert [slot.is_idle for slot in (elsewhere, other_port, free)] == [False, False, True]


def by_columns(text: str, order: list[int]) -> str:
    version, header, *rows = text.splitlines()
    fields = [row.split(" ") for row in (header.removeprefix("# "), *rows) if row]
    ordered = [" ".join(row[place] for place in order) for row in fields]
    return "\n".join((version, f"# {ordered[0]}", *ordered[1:], "", ""))


def test_of_a_reading_only_some_servers_can_be_taken() -> None:
    whole = backend(STATE)
    some = parse_servers_state(STATE, ("web",), {("web", "srv2"), ("web", "spare"), ("api", "srv1")}).backends["web"]

    assert some == attrs.evolve(whole, slots=whole.slots[1:2], foreign=whole.foreign[:1])


def test_of_the_counters_only_those_of_some_servers_can_be_taken() -> None:
    some = {("api", "srv1"), ("web", "srv2"), ("web", "srv99")}

    for part in ("loads", "first_checks", "health"):
        found, whole = getattr(stat(STAT, some), part), getattr(stat(STAT), part)
        assert found == {name: one for name, one in whole.items() if name in some}
        assert len(found) == 2


def test_of_the_counters_only_those_of_some_backends_can_be_taken() -> None:
    assert {backend for backend, _ in parse_stat([STAT], ["api"]).loads} == {"api"}


def test_counters_are_taken_from_each_of_several_answers() -> None:
    whole = stat(STAT)
    header, *lines = STAT.split("\n")
    apart = parse_stat([f"{header}\n{line}\n" for line in lines if line], ("api", "checked", "web"))

    assert apart == whole


@pytest.mark.parametrize(("port", "admin", "is_free"), [("1", 1, True), ("1", 0, False), ("8080", 1, False)])
def test_of_a_free_slot_neither_proof_nor_time_is_read(port: str, admin: int, *, is_free: bool) -> None:
    text = ONE.format(admin=admin).replace("10.0.0.1", "127.0.0.1").replace("8080", port)
    (one,) = backend(text).slots

    assert one.is_free == is_free
    assert one.since_seconds == (0 if is_free else 9)
    assert one.first_check is (FirstCheck.MISSING if is_free else FirstCheck.PASSED)
    assert (one.id, one.weight, one.is_up) == (7, 1, True)


def test_a_real_reading_holds_our_slots_by_number_and_the_foreign_servers() -> None:
    expected = Backend(
        "web",
        slots=(
            Server("srv1", Address("127.0.0.1", 1), AdminState.MAINT, 1, is_up=False),
            Server("srv2", Address("10.0.0.2", 8080), AdminState.READY, 1, is_up=True),
            Server("srv3", Address("10.0.0.3", 8080), AdminState.DRAIN, 1, is_up=True),
            Server("srv4", Address("10.0.0.4", 8080), AdminState.MAINT, 4, is_up=False),
            Server("srv5", Address("10.0.0.5", 8080), AdminState.DRAIN, 5, is_up=True),
            Server("srv6", Address("10.0.0.6", 8080), AdminState.READY, 6, is_up=True),
            Server("srv10", Address("2001:db8::10", 8080), AdminState.READY, 256, is_up=True),
        ),
        foreign=(
            Server("spare", Address("10.0.0.99", 8080), AdminState.READY, 1, is_up=True),
            Server("leader", None, AdminState.MAINT, 1, is_up=False),
            Server("follower", Address("10.0.0.98", 8080), AdminState.MAINT, 1, is_up=False),
        ),
    )

    assert expected == backend(STATE)


def test_only_the_backends_asked_for_are_read() -> None:
    assert set(parse_servers_state(STATE, ("api", "web")).backends) == {"api", "web"}


def test_a_backend_that_does_not_show_does_not_exist() -> None:
    assert backend(STATE, "nosuch") == Backend("nosuch", exists=False)
    assert backend(STATE, "we") == Backend("we", exists=False)


def test_a_backend_with_only_foreign_servers_exists() -> None:
    assert backend(ONE.format(admin=0).replace("srv1", "own1")).exists


@pytest.mark.parametrize(
    ("bits", "admin"),
    [
        (0, AdminState.READY),
        (0x04, AdminState.READY),  # was `disabled` in the file, made ready since
        (0x40, AdminState.READY),
        (0x01, AdminState.MAINT),
        (0x05, AdminState.MAINT),
        (0x02, AdminState.MAINT),
        (0x20, AdminState.MAINT),
        (0x08, AdminState.DRAIN),
        (0x0C, AdminState.DRAIN),
        (0x10, AdminState.DRAIN),
        (0x09, AdminState.MAINT),
        (0x28, AdminState.MAINT),
    ],
)
def test_the_administrative_state_is_told_by_bits(bits: int, admin: AdminState) -> None:
    assert backend(ONE.format(admin=bits)).slots[0].admin is admin


def test_the_twenty_columns_of_haproxy_2_2_give_the_same_reading() -> None:
    twenty = by_columns(STATE, list(range(20)))

    assert "srv_use_ssl" not in twenty
    assert parse_servers_state(STATE, ("web", "api")) == parse_servers_state(twenty, ("web", "api"))


def test_the_order_of_the_columns_does_not_matter() -> None:
    turned = by_columns(STATE, list(reversed(range(25))))

    assert parse_servers_state(STATE, ("web", "api")) == parse_servers_state(turned, ("web", "api"))


def test_the_order_of_the_lines_does_not_matter_for_slots() -> None:
    version, header, *rows = [line for line in STATE.splitlines() if line]
    turned = "\n".join((version, header, *reversed(rows)))

    assert backend(STATE).slots == backend(turned).slots


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "2\n# be_name\n",
        "Can't find backend.\n",
        "Permission denied\n",
        "Unknown command: 'show'\n",
        "1\n",
        "1\n\n",
        STATE.replace("srv_admin_state", "srv_admin"),
        STATE.replace("1\n#", "1\n", 1).replace(" be_name", " name"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_damaged_reading_is_an_error(text: str) -> None:
    with pytest.raises(RuntimeAPIError, match="show servers state"):
        parse_servers_state(text, ("web",))


@pytest.mark.parametrize(
    "text",
    [
        ONE.format(admin="x"),
        ONE.format(admin=""),
        ONE.format(admin=0).rstrip().removesuffix(" 8080"),
        ONE.format(admin=0).replace("srv1 10.0.0.1", "srv1"),
        ONE.format(admin=0).replace(" 8080", " host name 8080"),
        ONE.format(admin=0) + ONE.format(admin=0).splitlines()[2],
    ],
    ids=range(6),
)
def test_a_line_that_cannot_be_read_costs_its_own_backend_alone(text: str) -> None:
    other = ONE.format(admin=0).splitlines()[2].replace(" web ", " api ")

    observed = parse_servers_state(f"{text.rstrip()}\n{other}\n", ("web", "api"))

    assert list(observed.unread) == ["web"]
    assert "cannot be read" in observed.unread["web"]
    assert "web" not in observed.backends
    assert [slot.name for slot in observed.backends["api"].slots] == ["srv1"]


def test_what_is_said_of_a_line_or_row_that_cannot_be_read_is_short_and_ascii() -> None:
    odd = 500 * "\u00e9"
    row = STAT[STAT.index("web,srv2,") :].split("\n")[0].replace("web,srv2,0", f"web,srv9,{odd}")

    for said in (
        parse_servers_state(ONE.format(admin=odd), ("web",)).unread["web"],
        stat(f"{STAT.rstrip()}\n{row}\n").unread["web"],
    ):
        assert "invalid literal" in said
        assert said.isascii()
        assert len(said) < 650


def test_a_later_reading_takes_the_place_of_an_earlier_one_whatever_could_be_read_of_either() -> None:
    web, api = Backend("web"), Backend("api")
    first = Observed({"web": web}, {"api": "odd"})

    assert first.updated(Observed({"api": api})) == Observed({"web": web, "api": api})
    assert first.updated(Observed({"api": api})).unread == {}
    assert first.updated(Observed({}, {"web": "odd, too"})).backends == {}
    assert first.updated(Observed({}, {"web": "odd, too"})).unread == {"api": "odd", "web": "odd, too"}


@pytest.mark.parametrize("address", ["-", "", "nowhere", "/run/app.sock"])
def test_a_server_without_an_ip_address_has_none(address: str) -> None:
    assert backend(ONE.format(admin=0).replace("10.0.0.1", address)).slots[0].address is None


def test_loads_are_read_from_a_real_answer() -> None:
    loads = stat(STAT).loads

    assert loads["api", "srv1"] == Load(sessions=1, queued=0, used_connections=0, idle_connections=0)
    assert loads["web", "srv1"] == NO_LOAD
    assert ("web", "leader") in loads


def test_each_kind_of_load_is_read_from_its_column() -> None:
    text = rows("web,srv1,2,1,2,4,3", columns="pxname,svname,qcur,scur,type,idle_conn_cur,used_conn_cur")

    assert stat(text).loads == {("web", "srv1"): Load(1, 2, 3, 4)}


def test_a_count_that_is_empty_is_zero() -> None:
    found = stat(rows("web,srv1,2", columns="pxname,svname,type"))

    assert found == Stat(
        {("web", "srv1"): NO_LOAD}, {("web", "srv1"): FirstCheck.PASSED}, {("web", "srv1"): Health("", "", 0)}, {}
    )


def test_frontends_and_backends_are_passed_over() -> None:
    text = rows("web,FRONTEND,0,1", "web,BACKEND,1,1", "web,srv1,0,odd", columns="pxname,svname,type,scur")

    assert stat(text) == Stat({}, {}, {}, {})


def test_no_line_at_all_is_no_load() -> None:
    assert stat("") == stat("\n") == Stat({}, {}, {}, {})


def test_the_last_check_of_a_server_is_read_from_a_real_answer() -> None:
    health = stat(STAT).health

    assert health["checked", "srv1"] == Health("DOWN", "L7STS Layer7 wrong status", 3)
    assert health["web", "srv1"] == Health("MAINT", "", 3)
    assert health["web", "leader"].status == "MAINT (resolution)"


def test_fields_in_quotes_are_read_whole() -> None:
    assert ',"a,b ""q""",' in STAT
    assert stat(STAT).health["checked", "srv2"] == Health("DOWN", "L7STS Layer7 wrong status", 3)
    assert stat(STAT).loads["checked", "srv2"] == NO_LOAD


@pytest.mark.parametrize(
    "odd",
    [
        "\n",
        "\r",
        "\r\n",
        "\n> ",
        "\n\n> ",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1d",
        "\x1e",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufffd",
        "\t",
    ],
    ids=ascii,
)
def test_what_an_origin_answers_to_a_check_never_spoils_the_reading(odd: str) -> None:
    # HAProxy 2.6.12 prints the reason phrase of a failed check (last_chk) as it came.
    text = STAT.replace(",Plain,", f',"Not{odd}web,srv9,1,1,1,1{odd}Well",')

    assert stat(STAT).loads == stat(text).loads
    assert stat(STAT).health == stat(text).health


@pytest.mark.parametrize(
    "text",
    [
        "No such proxy.\n",
        "Permission denied\n",
        STAT.replace("pxname", "name"),
        STAT.replace(",type,", ",kind,"),
        STAT.replace(",scur,", ",sessions,"),
        STAT.replace(",check_desc,", ",description,"),
        STAT.replace(",check_rise,", ",rise,"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_damaged_statistic_is_an_error(text: str) -> None:
    with pytest.raises(RuntimeAPIError, match="show stat"):
        stat(text)


@pytest.mark.parametrize(
    "row", ["web,srv9,0", STAT[STAT.index("web,srv2,") :].split("\n")[0].replace("web,srv2,0", "web,srv9,many")]
)
def test_a_row_that_cannot_be_read_is_left_out_and_told_of_its_own_backend(row: str) -> None:
    text = f"{STAT.rstrip()}\n{row}\n"

    assert attrs.evolve(stat(text), unread={}) == stat(STAT)
    assert list(stat(text).unread) == ["web"]
    assert parse_stat([text], ("api",)).unread == {}
    assert stat(STAT).unread == {}


@pytest.mark.parametrize(
    ("since", "result", "checks", "first_check"),
    [
        (0, 0, 0, FirstCheck.PASSED),  # no check at all
        (0, 0, 8, FirstCheck.PASSED),
        (900, 0, 2, FirstCheck.PASSED),  # its check is turned off
        (0, 0, 6, FirstCheck.MISSING),
        (900, 1, 6, FirstCheck.MISSING),
        (900, 2, 6, FirstCheck.MISSING),
        (0, 3, 6, FirstCheck.UNREAD),
        (FIRST_CHECK_SECONDS - 1, 3, 6, FirstCheck.UNREAD),
        (FIRST_CHECK_SECONDS, 3, 6, FirstCheck.PASSED),
        (FIRST_CHECK_SECONDS, 4, 14, FirstCheck.PASSED),
    ],
)
def test_what_the_state_tells_of_a_servers_first_check(
    since: int, result: int, checks: int, first_check: FirstCheck
) -> None:
    text = ONE.format(admin=0).replace(" 9 0 0 8080", f" {since} {result} {checks} 8080")

    assert backend(text).slots[0].first_check is first_check


@pytest.mark.parametrize(
    ("health", "rise", "fall", "since", "first_check"),
    [
        ("", "", "", "", FirstCheck.PASSED),  # no check
        (2, 2, 3, 1, FirstCheck.MISSING),  # just entered: at `rise`
        (3, 2, 3, 1, FirstCheck.MISSING),
        (4, 2, 3, 1, FirstCheck.PASSED),  # rise + fall - 1
        (0, 2, 3, 59, FirstCheck.MISSING),
        (3, 2, 3, 60, FirstCheck.PASSED),  # up for a minute
        (1, 1, 1, 1, FirstCheck.MISSING),  # with `fall 1` the counter says nothing
        (1, 1, 1, 60, FirstCheck.PASSED),
    ],
)
def test_the_counters_tell_whether_the_first_check_passed(
    health: object, rise: object, fall: object, since: object, first_check: FirstCheck
) -> None:
    columns = "pxname,svname,type,lastchg,check_rise,check_fall,check_health"
    text = rows(f"web,srv1,2,{since},{rise},{fall},{health}", "web,BACKEND,1,1,1,1,1", columns=columns)

    assert stat(text).first_checks == {("web", "srv1"): first_check}


def test_the_first_checks_are_read_from_a_real_answer() -> None:
    first_checks = stat(STAT).first_checks

    assert first_checks["web", "srv2"] is FirstCheck.PASSED
    assert first_checks["checked", "srv1"] is FirstCheck.MISSING


def test_only_proofs_that_were_not_read_are_filled_in() -> None:
    slot = Server("srv1", Address("10.0.0.1", 80), AdminState.READY, 1, is_up=True)
    slots = [
        attrs.evolve(slot, name=f"srv{number}", first_check=first_check)
        for number, first_check in enumerate(FirstCheck, 1)
    ]
    slots.append(attrs.evolve(slot, name="srv4", first_check=FirstCheck.UNREAD))
    observed = Observed({"web": Backend("web", tuple(slots)), "api": Backend("api", (slot,))})
    told = {("web", one.name): FirstCheck.PASSED for one in slots[:3]} | {("api", "srv1"): FirstCheck.MISSING}
    filled = with_first_checks(observed, told)

    assert [one.first_check for one in filled.backends["web"].slots] == [
        *(FirstCheck.PASSED, FirstCheck.MISSING, FirstCheck.PASSED, FirstCheck.UNREAD)
    ]
    assert filled.backends["api"].slots[0].first_check is FirstCheck.PASSED


def test_a_load_that_was_not_read_stays_unknown() -> None:
    slot = Server("srv1", Address("10.0.0.1", 80), AdminState.MAINT, 1)
    observed = Observed(
        {"web": Backend("web", (slot, attrs.evolve(slot, name="srv2")), (attrs.evolve(slot, name="x"),))}
    )
    loads = {("web", "srv2"): Load(1, 0, 0, 0), ("web", "x"): NO_LOAD, ("api", "srv1"): NO_LOAD}
    filled = with_loads(observed, loads).backends["web"]

    assert [slot.load for slot in (*filled.slots, *filled.foreign)] == [None, Load(1, 0, 0, 0), NO_LOAD]


def test_the_process_is_read_from_a_real_answer() -> None:
    pid = int(next(line for line in INFO.splitlines() if line.startswith("Pid: "))[5:])
    version = "2.6.12-1+deb12u4"

    assert parse_info(INFO) == HAProxyProcess(pid, version, uptime_seconds=3, is_stopping=False)
    assert parse_info(INFO.replace("Stopping: 0", "Stopping: 1")).is_stopping


@pytest.mark.parametrize("text", ["", "\n", "Permission denied\n", "Pid: x\nVersion: 2\nUptime_sec: 1\n", "Pid: 1\n"])
def test_a_damaged_process_is_an_error(text: str) -> None:
    with pytest.raises(RuntimeAPIError, match="show info"):
        parse_info(text)


def test_the_number_of_a_backend_is_read_and_says_nothing_of_its_state() -> None:
    text = STATE.replace("\n3 web", "\n7 web")

    assert (backend(STATE).proxy_id, backend(text).proxy_id, backend(STATE, "nosuch").proxy_id) == (3, 7, 0)
    assert backend(STATE) == backend(text)


LEARNS = """\
0x55f4: [26/Nov/2026:03:10:03] id=mates disabled=0 flags={} resync_timeout=4s task_calls=2
  0x5b14: id=me(local,active) addr=127.0.0.1:17777 last_status=ESTA last_hdshk=0s
        flags=0x20000104 appctx:0x5cc8 st0=7 st1=0 task_calls=4 state=EST
"""


@pytest.mark.parametrize(
    ("flags", "uptime_seconds", "learns"),
    [
        ("0x0", 0, True),  # the old worker is still to come
        ("0x0", 2, False),  # there is none
        ("0x100c", 1, True),
        ("0x10000004", 9, True),  # 3.x
        ("0x10000004", 15, False),
        ("0x1103", 0, False),
        ("0x11000003", 0, False),
        ("0x1", 0, False),  # nothing more comes from the old worker, and nobody else is there
        ("0x5", 6, True),  # another balancer teaches
    ],
)
def test_a_worker_learns_while_its_peers_say_so(flags: str, uptime_seconds: int, learns: bool) -> None:  # noqa: FBT001
    assert is_learning(LEARNS.format(flags), uptime_seconds) is learns
    assert not is_learning(LEARNS.format(flags).replace("disabled=0", "disabled=1"), uptime_seconds)
    assert not is_learning("", uptime_seconds)
