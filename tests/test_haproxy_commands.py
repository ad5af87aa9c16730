"""Only plain commands can be made, in two steps, and a reply is a success or a refusal."""

import pytest

from hapsync.haproxy.commands import (
    MAX_LINE_LENGTH,
    SHOW_INFO,
    SHOW_SERVERS_STATE,
    SHOW_STAT_SERVERS,
    Command,
    address_commands,
    arrived,
    closing_commands,
    creation_commands,
    deletion_commands,
    drain_commands,
    is_done,
    is_gone,
    is_there,
    publish_command,
    show_servers_state,
    show_stat_servers,
    state_commands,
)
from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Disable,
    Drain,
    Enable,
    Reason,
    Remove,
    Reweigh,
    SetOverride,
)
from hapsync.model.server import Address, AdminState, Backend, Observed, Server

ADDRESS = Address("10.0.0.1", 8080)
ADD = Add("web", "srv1", ADDRESS, 5, Reason.PASSING)
ADDR = Command("set server web/srv1 addr 10.0.0.1 port 8080")
STATE = Command("set server web/srv1 state ready")
CLEAR = Command("clear table web data.server_id eq 3")
HEALTH = Command("enable health web/dyn-a-0000001")
NO_WEIGHT = "set server web/srv1 weight 0"
CHANGED = "IP changed from '127.0.0.1' to '10.0.0.1', port changed from '1' to '8080' by 'stats socket command'\n\n"
HOSTILE = [
    ";",
    "\n",
    "\r",
    "\t",
    "\0",
    "<<",
    "<",
    '"',
    "'",
    "\\",
    "{",
    "`",
    "$",
    "#",
    "!",
    "@",
    "é",
    "\u2028",
    "|",
    "&",
    "*",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_a_command_holds_nothing_but_plain_characters(hostile: str) -> None:
    for line in (hostile, f"show info{hostile}", f"{hostile}show info", f"show{hostile}info"):
        with pytest.raises(ValueError, match="not a line for the Runtime API"):
            Command(line)


def test_a_command_is_neither_empty_nor_long() -> None:
    assert Command("a" * MAX_LINE_LENGTH).line
    for line in ("", "a" * (MAX_LINE_LENGTH + 1)):
        with pytest.raises(ValueError, match="not a line for the Runtime API"):
            Command(line)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a;b", "a\n", "\n", "é", "a" * 129, "web;quit", "#1"], ids=ascii)
def test_a_name_in_a_command_holds_nothing_but_haproxys_characters(name: str) -> None:
    makers = (
        lambda: address_commands([Add(name, "srv1", ADDRESS, 1, Reason.PASSING)]),
        lambda: address_commands([Add("web", name, ADDRESS, 1, Reason.PASSING)]),
        lambda: state_commands([Remove(name, "srv1", ADDRESS, Reason.GONE)]),
        lambda: state_commands([Remove("web", name, ADDRESS, Reason.GONE)]),
        lambda: drain_commands(name, [Server("srv1", ADDRESS, AdminState.DRAIN, 1)]),
        lambda: drain_commands("web", [Server(name, ADDRESS, AdminState.DRAIN, 1)]),
        lambda: show_servers_state(name),
    )
    for make in makers:
        with pytest.raises(ValueError, match="not a name for the Runtime API"):
            make()


@pytest.mark.parametrize("host", ["10.0.0.1;quit", "10.0.0.1\n", "fe80::1%eth0", "<<", '"::1"'], ids=ascii)
def test_a_command_cannot_be_made_from_a_hostile_address(host: str) -> None:
    with pytest.raises(ValueError, match="not a line for the Runtime API"):
        address_commands([Add("web", "srv1", Address(host, 80), 1, Reason.PASSING)])


def test_every_name_that_haproxy_allows_can_stand_in_a_command() -> None:
    name = "web_1:2.3-B"

    assert show_servers_state(name).line == "show servers state web_1:2.3-B"


def test_the_questions_are_haproxys() -> None:
    lines = [command.line for command in (SHOW_INFO, SHOW_SERVERS_STATE, SHOW_STAT_SERVERS, show_stat_servers(3))]

    assert lines == ["show info", "show servers state", "show stat -1 4 -1", "show stat 3 4 -1"]


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        (
            ADD,
            ["set server web/srv1 weight 0", "set server web/srv1 addr 10.0.0.1 port 8080"],
            ["set server web/srv1 state ready", "set server web/srv1 weight 5"],
        ),
        (
            Add("web", "srv1", Address("2001:db8::1", 80), 0, Reason.PASSING),
            ["set server web/srv1 weight 0", "set server web/srv1 addr 2001:db8::1 port 80"],
            ["set server web/srv1 state ready", "set server web/srv1 weight 0"],
        ),
        (
            Add("web", "srv1", ADDRESS, 5, Reason.PASSING, is_checked=True, forgets=(("web", 3), ("mates/t1", 3))),
            [
                "clear table web data.server_id eq 3",
                "clear table mates/t1 data.server_id eq 3",
                "set server web/srv1 weight 0",
                "set server web/srv1 addr 10.0.0.1 port 8080",
            ],
            [
                "set server web/srv1 state drain",
                "set server web/srv1 health down",
                "set server web/srv1 state ready",
                "set server web/srv1 weight 5",
            ],
        ),
        (
            Enable("web", "srv1", ADDRESS, 256, Reason.WARNING),
            [],
            ["set server web/srv1 state ready", "set server web/srv1 weight 256"],
        ),
        (
            Enable("web", "dyn-a-0000001", ADDRESS, 1, Reason.PASSING, options="check inter 2s agent-check"),
            [],
            [
                "enable health web/dyn-a-0000001",
                "set server web/dyn-a-0000001 state ready",
                "set server web/dyn-a-0000001 weight 1",
                "enable agent web/dyn-a-0000001",
            ],
        ),
        (Reweigh("web", "srv1", ADDRESS, 3, 1, Reason.WEIGHT), [], ["set server web/srv1 weight 3"]),
        (Drain("web", "srv1", ADDRESS, Reason.MAINTENANCE), [], [NO_WEIGHT, "set server web/srv1 state drain"]),
        (Disable("web", "srv1", ADDRESS, Reason.CRITICAL), [], [NO_WEIGHT, "set server web/srv1 state maint"]),
        (Remove("web", "srv1", ADDRESS, Reason.GONE), [], [NO_WEIGHT, "set server web/srv1 state maint"]),
        (Remove("web", "srv1", None, Reason.GONE), [], [NO_WEIGHT, "set server web/srv1 state maint"]),
        (
            SetOverride("web", "srv1", ADDRESS, AdminState.MAINT, 7),
            [],
            ["set server web/srv1 state maint", "set server web/srv1 weight 7"],
        ),
        (
            SetOverride("web", "srv1", ADDRESS, AdminState.DRAIN, 7),
            [],
            ["set server web/srv1 state drain", "set server web/srv1 weight 7"],
        ),
        (ClearOverride("web", "srv1", ADDRESS), [], [NO_WEIGHT]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_change_is_made_in_two_steps_the_address_first(change: Change, first: list[str], second: list[str]) -> None:
    assert first == [command.line for _, command in address_commands([change])]
    assert second == [command.line for _, command in state_commands([change])]
    assert all(of is change for of, _ in (*address_commands([change]), *state_commands([change])))


def test_only_drained_servers_are_set_to_drain_on_a_new_worker() -> None:
    servers = [Server(f"srv{number}", ADDRESS, admin, 1) for number, admin in enumerate(AdminState, 1)]

    assert [command.line for command in drain_commands("web", servers)] == ["set server web/srv2 state drain"]


def test_an_addition_goes_on_once_its_address_shows_in_maint() -> None:
    def split(address: Address | None, admin: AdminState, name: str = "srv1") -> tuple[list[Change], list[Change]]:
        observed = Observed({"web": Backend("web", (Server(name, address, admin, 1),))})
        there, missing = arrived([ADD], observed)
        return list(there), list(missing)

    assert split(ADDRESS, AdminState.MAINT) == ([ADD], [])
    assert split(ADDRESS, AdminState.READY) == ([], [ADD])
    assert split(Address("10.0.0.1", 80), AdminState.MAINT) == ([], [ADD])
    assert split(None, AdminState.MAINT) == ([], [ADD])
    assert split(ADDRESS, AdminState.MAINT, "srv2") == ([], [ADD])


def test_other_changes_wait_for_no_address() -> None:
    changes: list[Change] = [
        Enable("web", "srv1", ADDRESS, 1, Reason.PASSING),
        Reweigh("web", "srv2", ADDRESS, 2, 1, Reason.WEIGHT),
        Remove("web", "srv3", ADDRESS, Reason.GONE),
    ]

    assert arrived(changes, Observed({})) == (changes, [])


@pytest.mark.parametrize(
    ("command", "reply", "done"),
    [
        (STATE, "\n", True),
        (STATE, "", True),
        (STATE, "No such server.\n\n", False),
        (STATE, "No such backend.\n\n", False),
        (STATE, "Permission denied\n", False),
        (STATE, "Unknown command: 'foo', but maybe one of the following ones is a better match:\n", False),
        (STATE, "Absolute weight can only be between 0 and 256 inclusive.\n\n", False),
        (STATE, "IP changed from '10.0.0.2' to '10.0.0.1'", False),
        (ADDR, "", False),
        (ADDR, "\n", False),
        (
            ADDR,
            CHANGED,
            True,
        ),
        (ADDR, "no need to change the addr, port changed from '8081' to '8080' by 'stats socket command'\n\n", True),
        (ADDR, "no need to change the addr, no need to change the port by 'stats socket command'\n\n", True),
        (ADDR, "nothing changed\n\n", True),
        (ADDR, "Invalid addr '10.0.0.1' by 'stats socket command'\n\n", False),
        (ADDR, "No such server.\n\n", False),
        (ADDR, "Permission denied\n", False),
        (HEALTH, "\n", True),
        (HEALTH, "Health check was not configured on this server, cannot enable.\n", True),
        (HEALTH, "No such server.\n", False),
        (CLEAR, "\n", True),
        (CLEAR, "No such table\n", True),
        (CLEAR, "Filter entry #1: Data type not stored in this table\n", True),
        (CLEAR, "Filter entry #1: Unknown data type\n", False),
        (CLEAR, "Permission denied\n", False),
    ],
)
def test_a_reply_is_a_success_or_a_refusal(command: Command, reply: str, done: bool) -> None:  # noqa: FBT001
    assert done is is_done(command, reply)


EXISTS = "Already exists a server with the same name in backend."


def test_a_whole_backend_is_added_with_free_slots_whose_checks_may_run() -> None:
    lines = [one.line for one in creation_commands("app-x", "web", ("srv1", "srv2"), "check  inter 1s agent-check")]

    assert lines == [
        "add backend app-x from web",
        "add server app-x/srv1 127.0.0.1:1 weight 100 check inter 1s agent-check",
        "enable health app-x/srv1",
        "add server app-x/srv2 127.0.0.1:1 weight 100 check inter 1s agent-check",
        "enable health app-x/srv2",
    ]


def test_a_whole_backend_gets_no_new_traffic_before_it_is_deleted() -> None:
    assert [one.line for one in closing_commands("app-x", ("srv1",))] == [
        "unpublish backend app-x",
        "set server app-x/srv1 weight 0",
        "set server app-x/srv1 state maint",
    ]
    assert [one.line for one in deletion_commands("app-x", ("srv1", "srv2"))] == [
        "del server app-x/srv1",
        "del server app-x/srv2",
        "del backend app-x",
    ]


@pytest.mark.parametrize("name", ["a b", "a;b", "a/b", "", "a\nb", "ä", "x" * 129])
def test_no_other_name_of_a_backend_or_of_its_defaults_is_ever_sent(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        creation_commands(name, "web", ("srv1",), "check")
    with pytest.raises(ValueError, match="not a name"):
        creation_commands("web", name, ("srv1",), "check")
    with pytest.raises(ValueError, match="not a name"):
        closing_commands(name, ())
    with pytest.raises(ValueError, match="not a name"):
        deletion_commands(name, ())
    with pytest.raises(ValueError, match="not a name"):
        publish_command(name)


@pytest.mark.parametrize(
    ("line", "reply", "done", "there", "gone"),
    [
        ("add backend x from web", "New backend registered.\n", True, False, False),
        (
            "add backend x from web",
            "Error during backend creation : name is already used by other proxy 'backend x'.\n",
            False,
            True,
            False,
        ),
        (
            "add backend x from web",
            "Error during backend creation : name is already used by other proxy 'frontend x'.\n",
            False,
            False,
            False,
        ),
        ("add backend x from web", "Cannot find default proxy 'web'.\n", False, False, False),
        (
            "add server x/srv1 127.0.0.1:1 weight 1",
            "Already exists a server with the same name in backend.\n",
            False,
            True,
            False,
        ),
        ("publish backend x", "Backend published.\n", True, False, False),
        ("publish backend x", "No such backend.\n", False, False, True),
        ("unpublish backend x", "Backend unpublished.\n", True, False, False),
        ("unpublish backend x", "Unknown command: 'unpublish', but maybe one of\n", False, False, False),
        (
            "del backend x",
            "Server x/srv1 is going DOWN for maintenance.\nServer deleted.\nBackend deleted.\n",
            True,
            False,
            True,
        ),
        ("del backend x", "Backend must be unpublished prior to its deletion.\n", False, False, False),
        (
            "del backend x",
            "This proxy cannot be removed at runtime due to other configuration elements pointing to it.\n",
            False,
            False,
            False,
        ),
    ],
)
def test_what_haproxy_3_4_says_of_whole_backends_is_understood(
    line: str, reply: str, done: object, there: object, gone: object
) -> None:
    expected = tuple(one in (True, "T") for one in (done, there, gone))

    assert (is_done(Command(line), reply), is_there(reply), is_gone(reply)) == expected
