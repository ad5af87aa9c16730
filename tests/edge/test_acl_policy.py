"""`hapsync check` says what the token may not do, and the policy that it prints is what the agent needs."""

import subprocess
from pathlib import Path

import pytest

from hapsync.config.schema import Config, ConsulConfig, parse_config
from hapsync.consul.acl_policy import Right, asked, missing_rights, needed_rights, policy
from hapsync.consul.client import ConsulClient
from hapsync.errors import CatalogError
from tests.demo.stage import HAPSYNC
from tests.harness.consul import AclConsul, Consul, acl_consul

ALL_NODES = 'node_prefix "" { policy = "read" }'
WEB = 'service "web" { policy = "read" }'
CANARY = 'service "consul" { policy = "read" }'


def config_in(work: Path, consul: Consul, more: str = "") -> Path:
    path = work / "hapsync.toml"
    path.write_text(f"""\
[consul]
address = "{consul.url}"
token_file = "{work}/token"
[haproxy]
socket = "{work}/admin.sock"
config = "{work}/haproxy.cfg"
template = "{work}/haproxy.cfg.j2"
check_command = ["true", "{{config}}"]
reload_command = ["true"]
[agent]
state_dir = "{work}/state"
runtime_dir = "{work}/run"
[backends.web]
service = "web"
{more}
""")
    (work / "haproxy.cfg.j2").write_text(
        'backend web\n    {{ servers("web") }}\n{% for one in backends("apps") %}backend {{ one }}\n'
        "    {{ servers(one) }}\n{% endfor %}"
        if "[discover" in more
        else 'backend web\n    {{ servers("web") }}\n'
    )
    return path


def check(config: Path, token: str) -> str:
    """What `hapsync check` says of Consul; the rest of it has no HAProxy here."""
    (config.parent / "token").write_text(f"{token}\n")
    command = (str(HAPSYNC), "check", "--config", str(config))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended
    return ended.stdout


def missing(consul: Consul, token: str, config: Config) -> tuple[Right, ...] | None:
    wanted = ConsulConfig(address=consul.url, token=token)
    rights = needed_rights(config)
    with ConsulClient(wanted) as agent:
        return missing_rights(rights, *agent.authorize(asked(rights)))


def token_with(consul: AclConsul, *rules: str) -> str:
    consul.set_policy("tried", "\n".join(rules))
    return consul.token("tried")


def test_check_names_what_a_token_may_not_read_and_prints_the_policy(work: Path) -> None:
    with acl_consul(work) as consul:
        for number in range(4):
            consul.put("web", f"w{number}", node=f"n{number}", address=f"10.0.0.{number + 1}", port=80)
        path = config_in(work, consul)

        half = check(
            path,
            token_with(consul, 'node_prefix "n" { policy = "deny" }', 'node "n1" { policy = "read" }', WEB, CANARY),
        )
        assert "WRONG the token of [consul] lacks rights:" in half
        assert "node:read of every node" in half
        assert "service:read" not in half
        assert "\n".join(f"  {rule}" for rule in (ALL_NODES, CANARY, WEB)) in half

        blind = check(path, token_with(consul, ALL_NODES, WEB))
        assert 'service:read of the canary "consul"' in blind
        assert 'WRONG consul.canary "consul": no instance is seen' in blind
        assert "node:read" not in blind

        whole = check(path, token_with(consul, policy(parse_config(path.read_text(), ""))))
        assert "the token of [consul] has all rights that hapsync needs" in whole
        assert 'ok    service "web": 4 instances' in whole
        assert "canary" not in whole

        unknown = check(path, "aaaaaaaa-0000-0000-0000-000000000000")
        assert "[consul] token: Consul does not know it" in unknown


@pytest.mark.parametrize(
    "more", ["", '[discover.apps]\ntag = "app"\nprefix = "app-"\n[fleet]\ngroup = "lbs"\n'], ids=["plain", "all"]
)
def test_the_printed_policy_gives_what_is_needed_and_none_of_its_rules_can_go(work: Path, more: str) -> None:
    with acl_consul(work) as consul:
        config = parse_config(config_in(work, consul, more).read_text(), "")
        rules = policy(config).splitlines()

        assert missing(consul, token_with(consul, *rules), config) == ()
        for rule in rules:
            rest = [one for one in rules if one != rule]
            assert missing(consul, token_with(consul, *rest), config), rule


def test_where_consul_has_no_acls_no_right_is_missing_and_an_unknown_token_is_an_error(
    shared_consul: Consul, work: Path
) -> None:
    config = parse_config(config_in(work, shared_consul).read_text(), "")

    assert missing(shared_consul, "", config) is None
    with acl_consul(work) as consul, pytest.raises(CatalogError, match="does not know it"):
        missing(consul, "aaaaaaaa-0000-0000-0000-000000000000", config)
