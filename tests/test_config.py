"""hapsync.toml is read strictly, and all that is wrong with it is said at once."""

import re
import tomllib
from ipaddress import ip_network
from pathlib import Path

import attrs
import pytest

from hapsync.agent.settings import read_config
from hapsync.config.schema import (
    RENAMED,
    RENAMED_OF_FLEET,
    AgentConfig,
    BackendConfig,
    BackendKeys,
    Config,
    ConsulConfig,
    DiscoverConfig,
    FleetConfig,
    HAProxyConfig,
    parse_config,
    renamed_keys,
)
from hapsync.errors import ConfigError
from hapsync.model.server import Address
from hapsync.text import plural
from tests.harness.tools import ROOT

WEB = '[backends.web]\nservice = "web"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "hapsync.toml")

    assert str(caught.value).splitlines()[0] == f"hapsync.toml: {plural(len(caught.value.problems), 'problem')}"
    assert [f"  {problem}" for problem in caught.value.problems] == str(caught.value).splitlines()[1:]
    return list(caught.value.problems)


def in_table(table: str, line: str) -> str:
    """Return a file that is right but for `line` in `table`."""
    return f'[backends.web]\nservice = "web"\n{line}\n' if table == "backends.web" else f"{WEB}[{table}]\n{line}\n"


def test_a_file_with_one_backend_is_enough() -> None:
    config = parse_config(WEB, "hapsync.toml")

    assert Config(backends={"web": BackendConfig(service="web")}) == config
    assert config.consul == ConsulConfig(
        address="http://127.0.0.1:8500", consistency="cached", canary="consul", wait_seconds=300.0
    )
    assert config.haproxy == HAProxyConfig(
        socket="/run/haproxy/admin.sock",
        config="/etc/haproxy/haproxy.cfg",
        template="/etc/hapsync/haproxy.cfg.j2",
        check_command=("haproxy", "-c", "-f", "{config}"),
        reload_gap_seconds=5.0,
        discover_reloads_per_hour=20,
        old_worker_grace_seconds=0.0,
    )
    assert config.agent == AgentConfig(
        mode="active", state_dir="/var/lib/hapsync", runtime_dir="/run/hapsync", resync_seconds=10.0, log_level="info"
    )
    assert config.backends["web"] == BackendConfig(
        service="web",
        tags=(),
        slots=8,
        server_options="check",
        networks=(),
        max_servers=1000,
        max_loss_fraction=0.5,
        guard_window_seconds=60.0,
        min_ready=1,
        fallback=(),
    )


def test_every_key_is_read() -> None:
    text = """\
[consul]
address = "https://consul.example:8501"
token = "t0ken"
datacenter = "dc-1"
consistency = "stale"
canary = "edge proxy"
wait_seconds = 30
timeout_seconds = 2.5
ca_file = "/etc/ca.pem"
cert_file = "/etc/cert.pem"
key_file = "/etc/key.pem"
[haproxy]
socket = "/run/a.sock"
config = "/etc/h.cfg"
template = "/etc/h.j2"
check_command = ["sudo", "haproxy", "-c", "-f", "/etc/common.cfg", "-f", "{config}"]
reload_command = ["systemctl", "reload", "haproxy"]
timeout_seconds = 1
check_timeout_seconds = 2
reload_timeout_seconds = 3
reload_gap_seconds = 0
discover_reloads_per_hour = 6
old_worker_grace_seconds = 3600
[agent]
mode = "observe"
state_dir = "/s"
runtime_dir = "/r"
resync_seconds = 1
log_level = "debug"
[fleet]
group = "edge"
reloads_at_once = 2
acquire_timeout_seconds = 9
[backends."a.b:c-d_1"]
service = "web server"
tags = ["a b", "`c`", ""]
slots = 4000
scaling = "dynamic"
start = "checked"
server_options = "check inter 2s ssl verify none"
networks = ["10.0.0.0/8", "2001:DB8::/32"]
max_servers = 50
max_loss_fraction = 0.25
guard_window_seconds = 90
min_ready = 2
fallback = ["10.0.0.5:80", "[2001:db8:0::1]:8080"]
"""
    expected = Config(
        consul=ConsulConfig(
            address="https://consul.example:8501",
            token="t0ken",
            datacenter="dc-1",
            consistency="stale",
            canary="edge proxy",
            wait_seconds=30.0,
            timeout_seconds=2.5,
            ca_file="/etc/ca.pem",
            cert_file="/etc/cert.pem",
            key_file="/etc/key.pem",
        ),
        haproxy=HAProxyConfig(
            socket="/run/a.sock",
            config="/etc/h.cfg",
            template="/etc/h.j2",
            check_command=("sudo", "haproxy", "-c", "-f", "/etc/common.cfg", "-f", "{config}"),
            reload_command=("systemctl", "reload", "haproxy"),
            timeout_seconds=1.0,
            check_timeout_seconds=2.0,
            reload_timeout_seconds=3.0,
            reload_gap_seconds=0.0,
            discover_reloads_per_hour=6,
            old_worker_grace_seconds=3600.0,
        ),
        agent=AgentConfig(mode="observe", state_dir="/s", runtime_dir="/r", resync_seconds=1.0, log_level="debug"),
        fleet=FleetConfig(group="edge", reloads_at_once=2, acquire_timeout_seconds=9.0),
        backends={
            "a.b:c-d_1": BackendConfig(
                service="web server",
                tags=("a b", "`c`", ""),
                slots=4000,
                scaling="dynamic",
                start="checked",
                server_options="check inter 2s ssl verify none",
                networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
                max_servers=50,
                max_loss_fraction=0.25,
                guard_window_seconds=90.0,
                min_ready=2,
                fallback=(Address("10.0.0.5", 80), Address("2001:db8::1", 8080)),
            )
        },
    )

    assert expected == parse_config(text, "hapsync.toml")


def test_all_problems_are_listed_at_once_each_with_its_path() -> None:
    text = """\
speed = 1
[consul]
adress = "http://127.0.0.1:8500"
token = "a"
token_file = "/b"
cert_file = "/c"
[haproxy]
socket = "run/admin.sock"
check_command = []
master_socket = "/m"
reload_command = ["r"]
[agent]
resync_seconds = "10"
[backends.web]
service = 5
slots = 0
[backends."a b"]
"""

    assert problems(text) == [
        "agent.resync_seconds: must be a number",
        'backends."a b".service: is missing',
        'backends."a b": must be 1 to 128 of A-Z a-z 0-9 _ : . - (HAProxy\'s own rule)',
        "backends.web.service: must be a text",
        "backends.web.slots: must be from 1 to 50000",
        "consul.cert_file: a client certificate needs both cert_file and key_file",
        "consul.token_file: give either this or consul.token, not both",
        'consul: unknown key(s): "adress" (did you mean address?)',
        'haproxy.check_command: must contain "{config}", which stands for the file to check',
        "haproxy.check_command: must name a program to run",
        "haproxy.reload_command: give either this or haproxy.master_socket, not both",
        "haproxy.socket: must be an absolute path",
        'the file: unknown key(s): "speed"',
    ]


def test_an_unknown_key_that_is_nearly_another_is_said_to_be_perhaps_that() -> None:
    (problem,) = problems(in_table("backends.web", "max_server = 5\nspeed = 1"))

    assert problem == 'backends.web: unknown key(s): "max_server" (did you mean max_servers?), "speed"'


@pytest.mark.parametrize("table", ["consul", "haproxy", "agent", "backends.web", "backends.web.foo"])
def test_an_unknown_key_is_a_problem(table: str) -> None:
    (problem,) = problems(in_table(table, '"od\\nd" = 1'))
    path = "backends.web" if table.startswith("backends") else table
    key = "foo" if table.endswith("foo") else "od\\nd"

    assert f'{path}: unknown key(s): "{key}"' == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "backends: must name at least one backend, for example [backends.web]"),
        ("backends = {}", "backends: must name at least one backend, for example [backends.web]"),
        ("backends = 5", "backends: must hold a table for each name, for example [backends.web]"),
        ('[[backends]]\nservice = "a"', "backends: must hold a table for each name, for example [backends.web]"),
        ("[backends]\nweb = 5", "backends.web: must be a table"),
        ("[backends.web]", "backends.web.service: is missing"),
        (f"consul = 5\n{WEB}", "consul: must be a table"),
        (f"haproxy = []\n{WEB}", "haproxy: must be a table"),
        (f'agent = "a"\n{WEB}', "agent: must be a table"),
    ],
)
def test_what_should_be_a_table_is_one(text: str, problem: str) -> None:
    assert [problem] == problems(text)


@pytest.mark.parametrize("value", ["5", "5.5", "true", '["a"]', "{ a = 1 }", "2026-01-01"])
@pytest.mark.parametrize(
    ("table", "key"),
    [
        *(("consul", key) for key in ("address", "token", "token_file", "datacenter", "canary", "ca_file")),
        *(("haproxy", key) for key in ("socket", "config", "template", "master_socket")),
        *(("agent", key) for key in ("state_dir", "runtime_dir")),
        *(("backends.web", key) for key in ("server_options",)),
    ],
)
def test_a_text_is_nothing_else(table: str, key: str, value: str) -> None:
    assert problems(in_table(table, f"{key} = {value}")) == [f"{table}.{key}: must be a text"]


@pytest.mark.parametrize("value", ['"5"', "true", "[5]", "{ a = 1 }", "2026-01-01"])
@pytest.mark.parametrize(
    ("table", "key"),
    [
        *(("consul", key) for key in ("wait_seconds", "timeout_seconds")),
        *(
            ("haproxy", key)
            for key in ("timeout_seconds", "check_timeout_seconds", "reload_timeout_seconds", "reload_gap_seconds")
        ),
        ("agent", "resync_seconds"),
        *(("backends.web", key) for key in ("max_loss_fraction", "guard_window_seconds")),
    ],
)
def test_a_number_is_nothing_else(table: str, key: str, value: str) -> None:
    assert problems(in_table(table, f"{key} = {value}")) == [f"{table}.{key}: must be a number"]


@pytest.mark.parametrize("value", ['"8"', "true", "8.0", "[8]"])
@pytest.mark.parametrize("key", ["slots", "max_servers", "min_ready"])
def test_a_whole_number_is_nothing_else(key: str, value: str) -> None:
    assert problems(in_table("backends.web", f"{key} = {value}")) == [f"backends.web.{key}: must be a whole number"]


@pytest.mark.parametrize("value", ['"a"', "5", "true", "[5]", '["a", 5]', '[["a"]]', "{ a = 1 }"])
@pytest.mark.parametrize(
    ("table", "key"),
    [("haproxy", "reload_command"), *(("backends.web", key) for key in ("tags", "networks", "fallback"))],
)
def test_a_list_of_texts_is_nothing_else(table: str, key: str, value: str) -> None:
    assert problems(in_table(table, f"{key} = {value}")) == [f"{table}.{key}: must be a list of texts"]


@pytest.mark.parametrize("value", ['"sometimes"', "5", "true", '["cached"]', '""', '"CACHED"'])
def test_a_choice_is_one_of_its_words(value: str) -> None:
    assert problems(in_table("consul", f"consistency = {value}")) == [
        "consul.consistency: must be one of cached, stale, default"
    ]
    assert problems(in_table("agent", f"log_level = {value}")) == [
        "agent.log_level: must be one of debug, info, warning, error"
    ]
    assert problems(in_table("agent", f"mode = {value}")) == ["agent.mode: must be one of active, observe"]


@pytest.mark.parametrize(
    "address",
    [
        *("http://127.0.0.1:8500", "http://localhost", "https://consul.example:8501/", "http://[::1]:8500"),
        "unix:///run/consul/http.sock",
    ],
)
def test_consul_is_reached_by_http_https_or_a_unix_socket(address: str) -> None:
    assert parse_config(in_table("consul", f'address = "{address}"'), "f").consul.address == address


@pytest.mark.parametrize(
    "address",
    [
        *("", "127.0.0.1:8500", "ftp://a", "http://", "http://a b", "http://a/v1", "http://user@a", "unix://run/x"),
        *("http://a:b", "http://a:123456", "http://a\\n", "unix:///", "HTTP://a", "http://a?x=1"),
    ],
)
def test_consul_is_reached_no_other_way(address: str) -> None:
    (problem,) = problems(in_table("consul", f'address = "{address}"'))

    assert problem.startswith('consul.address: must look like "http://127.0.0.1:8500"')


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8500", True),
        ("http://127.9.9.9", True),
        ("https://localhost:8501", True),
        ("http://localhost", True),
        ("http://[::1]:8500", True),
        ("unix:///run/consul.sock", True),
        ("http://localhost.example", False),
        ("http://10.0.0.1:8500", False),
        ("http://consul.service", False),
        ("http://[::2]:8500", False),
    ],
)
def test_an_agent_on_this_machine_is_local(address: str, local: bool) -> None:  # noqa: FBT001
    assert local is ConsulConfig(address=address).is_local


@pytest.mark.parametrize("path", ["", "run/x", "./x", "~/x", "/a\\nb", "/a\\u0000b"])
def test_a_path_is_absolute_and_on_one_line(path: str) -> None:
    assert problems(in_table("haproxy", f'socket = "{path}"')) == ["haproxy.socket: must be an absolute path"]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a;b", "a\\nb", "é", "a" * 129, "<<", "{{ x }}", "#1", "a @ b"])
def test_a_backend_has_a_name_that_haproxy_allows(name: str) -> None:
    (problem,) = problems(f'[backends."{name}"]\nservice = "web"\n')

    assert problem.startswith('backends."')
    assert problem.endswith("must be 1 to 128 of A-Z a-z 0-9 _ : . - (HAProxy's own rule)")


@pytest.mark.parametrize("name", ["a @ b", "a\\nb", "a.b", "a'] x"])
def test_the_path_of_a_problem_is_whole_whatever_its_keys_are(name: str) -> None:
    found = problems(f'[backends."{name}"]\nservice = "web"\nslots = 0\n')

    assert all(problem.startswith("backends.") and len(problem.splitlines()) == 1 for problem in found)
    assert any(problem.endswith("slots: must be from 1 to 50000") for problem in found)


@pytest.mark.parametrize("name", ["", "é", "a\\nb", "a" * 257])
def test_a_service_has_a_printable_name(name: str) -> None:
    assert problems(f'[backends.web]\nservice = "{name}"\n') == [
        "backends.web.service: must be 1 to 256 printable characters"
    ]


@pytest.mark.parametrize(
    ("table", "line", "limits"),
    [
        ("backends.web", "slots = 0", "1 to 50000"),
        ("backends.web", "slots = -1", "1 to 50000"),
        ("backends.web", "slots = 50001", "1 to 50000"),
        ("backends.web", "max_servers = 0", "1 to 50000"),
        ("backends.web", "max_servers = 50001", "1 to 50000"),
        ("backends.web", "min_ready = -1", "0 to 50000"),
        ("backends.web", "min_ready = 50001", "0 to 50000"),
        ("backends.web", "max_loss_fraction = -0.1", "0 to 1"),
        ("backends.web", "max_loss_fraction = 1.1", "0 to 1"),
        ("backends.web", "max_loss_fraction = 50", "0 to 1"),
        ("backends.web", "max_loss_fraction = nan", "0 to 1"),
        ("backends.web", "guard_window_seconds = -1", "0 to 86400"),
        ("backends.web", "guard_window_seconds = inf", "0 to 86400"),
        ("consul", "wait_seconds = 0.5", "1 to 600"),
        ("consul", "wait_seconds = 601", "1 to 600"),
        ("consul", "timeout_seconds = 0", "0.05 to 86400"),
        ("agent", "resync_seconds = nan", "0.05 to 86400"),
        ("agent", "resync_seconds = inf", "0.05 to 86400"),
        ("haproxy", "reload_gap_seconds = -0.1", "0 to 86400"),
        ("haproxy", "discover_reloads_per_hour = 0", "1 to 3600"),
        ("haproxy", "old_worker_grace_seconds = 2678401", "0 to 2678400"),
    ],
)
def test_a_number_is_within_its_limits(table: str, line: str, limits: str) -> None:
    assert problems(in_table(table, line)) == [f"{table}.{line.split(' ', maxsplit=1)[0]}: must be from {limits}"]


@pytest.mark.parametrize(
    "options",
    [
        *("check # x", "check\\ninter 2s", 'check \\"x\\"', "check 'x'", "check \\\\", "check\\u0000", "chéck"),
        *("check disabled", "weight 5", "id 7", "enabled", "check init-state up", "track web/srv1", "redir /x"),
        "check\\t inter 2s",
    ],
)
def test_server_options_are_plain_keywords(options: str) -> None:
    (problem,) = problems(in_table("backends.web", f'server_options = "{options}"'))

    assert problem.startswith("backends.web.server_options: must be plain HAProxy keywords on one line")


@pytest.mark.parametrize(
    "options", ["", "check", "check inter 2s fall 3", "ssl verify none sni str(a.b)", "cookie disabled-1"]
)
def test_server_options_may_be_any_keywords(options: str) -> None:
    text = in_table("backends.web", f'server_options = "{options}"')

    assert options == parse_config(text, "f").backends["web"].server_options


@pytest.mark.parametrize(
    ("lines", "master"),
    [
        ("", "/run/haproxy-master.sock"),
        ('master_socket = "/m"', "/m"),
        ('reload_command = ["r"]', None),
    ],
)
def test_a_reload_is_made_by_the_master_or_by_a_command(lines: str, master: str | None) -> None:
    assert master == parse_config(in_table("haproxy", lines), "f").haproxy.master


def test_both_reload_means_at_once_are_a_problem() -> None:
    assert problems(in_table("haproxy", 'master_socket = "/m"\nreload_command = ["r"]')) == [
        "haproxy.reload_command: give either this or haproxy.master_socket, not both"
    ]


@pytest.mark.parametrize("command", ["[]", '[""]', '["", "a"]'])
def test_a_command_names_a_program(command: str) -> None:
    assert problems(in_table("haproxy", f"reload_command = {command}")) == [
        "haproxy.reload_command: must name a program to run"
    ]


def test_the_check_command_says_where_the_candidate_goes() -> None:
    assert problems(in_table("haproxy", 'check_command = ["haproxy", "-c"]')) == [
        'haproxy.check_command: must contain "{config}", which stands for the file to check'
    ]


@pytest.mark.parametrize("given", ['cert_file = "/c"', 'key_file = "/k"'])
def test_a_client_certificate_needs_its_key(given: str) -> None:
    assert problems(in_table("consul", given)) == [
        "consul.cert_file: a client certificate needs both cert_file and key_file"
    ]


def test_a_token_is_never_shown() -> None:
    config = parse_config(in_table("consul", 'token = "s3cret"'), "f")

    assert config.consul.token == "s3cret"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize("token", ["a b", "a\\n", "é"])
def test_a_token_can_stand_in_a_header(token: str) -> None:
    assert problems(in_table("consul", f'token = "{token}"')) == [
        "consul.token: must be printable ASCII without spaces"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[backends.web",
        "a = ",
        "a = 1\na = 2",
        "\0",
        f"a = {'1' * 5000}",
        f"a = {'[' * 5000}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_not_toml_is_one_problem(text: str) -> None:
    (problem,) = problems(text)

    assert problem.startswith("not TOML: ")


def test_a_number_too_large_for_a_number_is_a_problem_of_its_size() -> None:
    assert problems(in_table("agent", f"resync_seconds = 1{'0' * 400}")) == [
        "agent.resync_seconds: must be from 0.05 to 86400"
    ]


def test_each_service_is_watched_once() -> None:
    backends = {name: BackendConfig(service=service) for name, service in (("a", "web"), ("b", "api"), ("c", "web"))}

    assert Config(backends=backends).services == ("api", "web")


@pytest.mark.parametrize("name", ["", "consul", "web server"])
def test_the_canary_is_a_service_or_none(name: str) -> None:
    assert name == parse_config(in_table("consul", f'canary = "{name}"'), "f").consul.canary


@pytest.mark.parametrize("name", ["é", "a\\nb", "a" * 257])
def test_the_canary_has_a_printable_name(name: str) -> None:
    assert problems(in_table("consul", f'canary = "{name}"')) == [
        "consul.canary: must be a service's name, or empty for none"
    ]


@pytest.mark.parametrize(
    "network", ["0.0.0.0/0", "::/0", "127.0.0.0/8", "10.1.2.3/32", "2001:db8::1/128", "fd00::/8"]
)
def test_any_network_with_servers_in_it_may_be_named(network: str) -> None:
    config = parse_config(in_table("backends.web", f'networks = ["{network}"]'), "f")

    assert (ip_network(network),) == config.backends["web"].networks


@pytest.mark.parametrize(
    ("network", "what"),
    [
        ("10.1.2.3/8", 'has bits set beyond its length; write "10.0.0.0/8"'),
        ("2001:db8::1/32", 'has bits set beyond its length; write "2001:db8::/32"'),
        ("10.1.2.3", 'is one address; write "10.1.2.3/32"'),
        ("2001:db8::1", 'is one address; write "2001:db8::1/128"'),
        ("::ffff:10.0.0.0/104", 'holds IPv4 addresses; write "10.0.0.0/8"'),
        ("::ffff:10.1.2.3/104", 'holds IPv4 addresses; write "10.0.0.0/8"'),
        ("224.0.0.0/4", "is multicast or link-local; no server there is ever used"),
        ("ff00::/8", "is multicast or link-local; no server there is ever used"),
        ("169.254.0.0/16", "is multicast or link-local; no server there is ever used"),
        ("fe80::/10", "is multicast or link-local; no server there is ever used"),
        *(
            (wrong, 'is not a network such as "10.0.0.0/8" or "2001:db8::/32"')
            for wrong in (
                *(
                    "",
                    "/",
                    "/8",
                    "10.0.0.0/",
                    "10.0.0.0/33",
                    "::/129",
                    "10.0.0.0/255.0.0.0",
                    "10.0.0.0/0.255.255.255",
                ),
                *("10.0.0.0/-1", "10.0.0.0/8 ", " 10.0.0.0/8", "10.0.0/8", "010.0.0.0/8", "fe80::%eth0/64", "web/8"),
                *("fe80::1%eth0", "10.0.0.0/\u0668", "10.0.0.0/8;10.1.0.0/16", "web"),
            )
        ),
    ],
)
def test_a_network_is_said_to_be_wrong_and_how_it_is_right(network: str, what: str) -> None:
    (problem,) = problems(in_table("backends.web", f'networks = ["{network}"]'))

    assert problem.startswith('backends.web.networks: "')
    assert problem.endswith(f'" {what}')
    assert problem.isascii()


def test_all_wrong_networks_of_a_list_are_named() -> None:
    (problem,) = problems(in_table("backends.web", 'networks = ["10.0.0.1/8", "10.0.0.0/8", "x"]'))

    assert problem == (
        'backends.web.networks: "10.0.0.1/8" has bits set beyond its length; write "10.0.0.0/8"; '
        '"x" is not a network such as "10.0.0.0/8" or "2001:db8::/32"'
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:80", Address("10.0.0.5", 80)),
        ("127.0.0.1:65535", Address("127.0.0.1", 65535)),
        ("[2001:DB8:0:0::1]:80", Address("2001:db8::1", 80)),
        ("[::ffff:10.0.0.5]:80", Address("10.0.0.5", 80)),
        ("[::1]:1", Address("::1", 1)),
    ],
)
def test_a_fallback_address_has_its_one_spelling(text: str, address: Address) -> None:
    config = parse_config(in_table("backends.web", f'fallback = ["{text}"]'), "f")

    assert (address,) == config.backends["web"].fallback


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("127.0.0.1:1", "is where free slots point"),
        ("[::ffff:127.0.0.1]:1", "is where free slots point"),
        *(
            (refused, "is unspecified, multicast or link-local")
            for refused in ("0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1]:80", "169.254.1.1:80", "[fe80::1]:80")
        ),
        *(
            (wrong, 'is not an address such as "10.0.0.5:80" or "[2001:db8::1]:80"')
            for wrong in (
                *("", "10.0.0.5", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:080", "10.0.0.5:+80"),
                *("web.example:80", "2001:db8::1:80", "[2001:db8::1]", "[10.0.0.5]:80", "[fe80::1%eth0]:80"),
                *("10.0.0.5:80 ", "10.0.0.5:80\\n", "10.0.0.5:\u0668", "010.0.0.5:80", "10.0.5:80", "a;b:80"),
            )
        ),
    ],
)
def test_a_fallback_address_is_a_server_s(text: str, what: str) -> None:
    (problem,) = problems(in_table("backends.web", f'fallback = ["{text}"]'))

    assert problem.startswith('backends.web.fallback: "')
    assert problem.endswith(f'" {what}')
    assert problem.isascii()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("min_ready = 5\nmax_servers = 4", "min_ready 5 is more than max_servers 4"),
        ('fallback = ["10.0.0.1:80", "10.0.0.2:80"]\nmax_servers = 1', "fallback has 2 addresses, max_servers is 1"),
        ('fallback = ["10.0.0.1:80", "[::ffff:10.0.0.1]:80"]', "fallback has 10.0.0.1:80 twice"),
        ('start = "checked"\nserver_options = "inter 1s"', 'start "checked" needs `check` in server_options'),
        (
            'fallback = ["10.0.0.1:80", "10.9.0.1:80"]\nnetworks = ["10.0.0.0/24"]',
            "fallback has 10.9.0.1:80, which is outside networks",
        ),
    ],
)
def test_keys_of_a_backend_that_contradict_each_other_are_a_problem(lines: str, problem: str) -> None:
    assert problems(in_table("backends.web", lines)) == [f"backends.web: {problem}"]


def test_the_shipped_file_is_right_and_shows_every_default_it_comments_out() -> None:
    text = (ROOT / "haproxy" / "hapsync.toml").read_text()
    config = parse_config(text, "hapsync.toml")
    tables = {
        "consul": ConsulConfig(),
        "haproxy": HAProxyConfig(),
        "agent": AgentConfig(),
        "fleet": FleetConfig(group="edge"),
        "discover.apps": DiscoverConfig(tag="public", prefix="app-"),
        "discover.apps.each": BackendKeys(),
        "backends.web": BackendConfig(service="web"),
    }
    table, shown = "", 0
    for line in text.splitlines():
        if begun := re.match(r"(?:# )?\[([a-z.]+)\]", line):
            table = begun[1]
        if commented := re.match(r"# ([a-z_]+ = .*)", line):
            ((key, value),) = tomllib.loads(commented[1]).items()
            default = getattr(tables[table], key)

            assert default in (None, tuple(value) if isinstance(value, list) else value), line
            shown += 1

    assert shown >= 12
    assert config.backends["web"] == BackendConfig(service="web", server_options="check inter 2s")


OLD_NAMES = """
[fleet]
group = "edge"
patience_seconds = 9

[backends.web]
service = "web"
means = "slots"

[discover.apps]
tag = "app"
prefix = "app-"

[discover.apps.each]
hold_down_seconds = 5
"""


def test_a_key_may_have_the_name_it_had_in_0_1_and_the_reader_is_told_the_new_one() -> None:
    config = parse_config(OLD_NAMES, "hapsync.toml")

    assert config.fleet is not None
    assert config.fleet.acquire_timeout_seconds == 9.0
    assert config.backends["web"].scaling == "slots"
    assert config.discover["apps"].each.damping_seconds == 5.0
    assert renamed_keys(OLD_NAMES) == (
        "backends.web.means is called scaling now; the old name is read until hapsync 0.3",
        "discover.apps.each.hold_down_seconds is called damping_seconds now; the old name is read until hapsync 0.3",
        "fleet.patience_seconds is called acquire_timeout_seconds now; the old name is read until hapsync 0.3",
    )


def test_a_command_that_reads_a_file_twice_warns_of_an_old_name_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "hapsync.toml"
    path.write_text(OLD_NAMES)
    read_config(str(path))
    read_config(str(path))

    assert caplog.text.count("backends.web.means is called scaling now") == 1


def test_a_key_with_both_of_its_names_is_a_problem() -> None:
    both = OLD_NAMES.replace('means = "slots"', 'means = "slots"\nscaling = "auto"')

    with pytest.raises(ConfigError) as caught:
        parse_config(both, "hapsync.toml")
    assert caught.value.problems == (
        "backends.web.means: is the old name of scaling, which is given too; remove means",
    )


@pytest.mark.parametrize("text", ["backends = 5", "fleet = []", "[backends]\nweb = 5", "[discover.apps]\neach = 5"])
def test_a_table_of_the_wrong_type_has_no_old_names(text: str) -> None:
    assert renamed_keys(text) == ()
    with pytest.raises(ConfigError):
        parse_config(text, "hapsync.toml")


def test_every_new_name_is_a_key_and_no_old_one_is() -> None:
    for kind, renamed in ((BackendConfig, RENAMED), (BackendKeys, RENAMED), (FleetConfig, RENAMED_OF_FLEET)):
        names = {field.name for field in attrs.fields(kind)}

        assert set(renamed.values()) <= names
        assert not set(renamed) & names
