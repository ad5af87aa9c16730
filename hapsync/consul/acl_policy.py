"""The rights that hapsync's token needs under Consul's ACLs, and a policy with these rights."""

import json
import re
from collections.abc import Collection

import attrs

from hapsync.config.schema import Config
from hapsync.errors import CatalogError
from hapsync.text import quoted, shown

ANY = "hapsync-asks-for-any-name"
"""This name stands for all names: no service or node has it, so only a rule for the empty prefix allows it."""
_OK, _FORBIDDEN = 200, 403
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/ -]{1,200}")


@attrs.frozen
class Right:
    """The right of `access` (read or write) to the `resource` `name`, in the words of Consul's ACL rules.

    A `name` of `ANY` means all names. `what` says why hapsync needs the right, and the failure without it.
    """

    resource: str
    access: str
    name: str
    what: str


def needed_rights(config: Config) -> tuple[Right, ...]:
    """Return the rights that the token needs for `config`, each once."""
    rights = [
        Right(
            "node",
            "read",
            ANY,
            "every node: Consul leaves out the instances on a node that the token may not read, as if they were gone",
        )
    ]
    if config.discover:
        rights.append(Right("service", "read", ANY, "every service, for [discover]"))
    rights += [Right("service", "read", name, f"service {quoted(name)}") for name in config.services]
    canary = config.consul.canary
    if canary and canary not in config.services:
        why = "without it nothing is removed from a service that becomes empty"
        rights.append(Right("service", "read", canary, f"the canary {quoted(canary)}: {why}"))
    if config.fleet is not None:
        group = config.fleet.group
        rights.append(Right("key", "write", f"hapsync/{group}/reload/slot-0", f"the reload permits of fleet {group}"))
        rights.append(Right("session", "write", ANY, "sessions, for [fleet]"))
    return tuple(rights)


def policy(config: Config) -> str:
    """Return the ACL policy that gives all of `needed_rights` and no more, as HCL to paste (Consul 1.4 and newer)."""
    rules = [_rule('node_prefix ""', "read")]
    names = {*config.services, *([config.consul.canary] if config.consul.canary else [])}
    if config.discover or not all(_PLAIN.fullmatch(name) for name in names):
        rules.append(_rule('service_prefix ""', "read"))
    else:
        rules += [_rule(f"service {json.dumps(name)}", "read") for name in sorted(names)]
    if config.fleet is not None:
        rules += [_rule(f"key_prefix {json.dumps(f'hapsync/{config.fleet.group}/')}", "write")]
        rules += [_rule('session_prefix ""', "write")]
    return "\n".join(rules)


def missing_words(missing: Collection[Right], config: Config) -> str:
    """Return the message about rights that the token lacks: a line for each, then the policy to paste."""
    lacks = [f"  {right.resource}:{right.access} of {right.what}" for right in missing]
    head = "the token of [consul] lacks rights:"
    how = "an ACL policy with all that hapsync needs (`consul acl policy create -name hapsync -rules @FILE`):"
    return "\n".join([head, *lacks, how, *(f"  {line}" for line in policy(config).splitlines())])


def _rule(what: str, access: str) -> str:
    return f'{what} {{ policy = "{access}" }}'


def asked(rights: Collection[Right]) -> bytes:
    """Return the body of the request to `/v1/internal/acl/authorize`, which asks whether the token has `rights`."""
    wanted = [{"Resource": one.resource, "Access": one.access, "Segment": one.name} for one in rights]
    return json.dumps(wanted).encode()


def missing_rights(rights: Collection[Right], status: int, body: bytes) -> tuple[Right, ...] | None:
    """Return the `rights` that the token lacks by the answer to `asked`; None where Consul does not tell.

    The answer is 401 where ACLs are off, and 403 for a token that Consul does not know.

    Raises CatalogError for such a token.
    """
    if status == _FORBIDDEN:
        said = shown(body[:200].decode("utf-8", "replace").strip())
        hint = "is it of this datacenter, and not expired?"
        raise CatalogError(f"[consul] token: Consul does not know it ({said}); {hint}")
    if status != _OK:
        return None
    try:
        allowed = [bool(one["Allow"]) for one in json.loads(body)]
    except (ValueError, TypeError, KeyError):
        return None
    if len(allowed) != len(rights):
        return None
    return tuple(right for right, may in zip(rights, allowed, strict=True) if not may)
