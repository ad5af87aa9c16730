"""Which rights the token needs, and the policy that is printed for them."""

import attrs

from hapsync.config.schema import Config, parse_config
from hapsync.consul.acl_policy import ANY, missing_words, needed_rights, policy

HEAD = """\
[haproxy]
socket = "/run/haproxy/admin.sock"
config = "/etc/haproxy/haproxy.cfg"
template = "/etc/haproxy/haproxy.cfg.j2"
reload_command = ["true"]
"""
WEB = '[backends.web]\nservice = "web"\n'


def parsed(text: str) -> Config:
    return parse_config(HEAD + text, "hapsync.toml")


def test_a_service_and_the_canary_are_read_on_every_node_and_no_more() -> None:
    config = parsed(WEB)

    assert [(one.resource, one.access, one.name) for one in needed_rights(config)] == [
        ("node", "read", ANY),
        ("service", "read", "web"),
        ("service", "read", "consul"),
    ]
    assert policy(config).splitlines() == [
        'node_prefix "" { policy = "read" }',
        'service "consul" { policy = "read" }',
        'service "web" { policy = "read" }',
    ]


def test_a_canary_that_is_served_or_none_asks_for_nothing_more() -> None:
    config = parsed(WEB)
    for canary in ("", "web"):
        changed = attrs.evolve(config, consul=attrs.evolve(config.consul, canary=canary))
        assert [one.name for one in needed_rights(changed)] == [ANY, "web"]
        assert 'service "consul"' not in policy(changed)


def test_a_name_that_a_policy_might_read_otherwise_is_not_written_into_one() -> None:
    for name in ('we"b', "we\\\\b", "w${x}"):
        config = parsed(f"[backends.web]\nservice = {name!r}\n")
        assert policy(config).splitlines() == [
            'node_prefix "" { policy = "read" }',
            'service_prefix "" { policy = "read" }',
        ]


def test_what_is_told_names_each_right_and_ends_with_the_policy() -> None:
    config = parsed(WEB)

    told = missing_words(needed_rights(config)[:1], config)

    assert "node:read of every node" in told
    assert "service:read" not in told
    assert told.endswith('  service "web" { policy = "read" }')
