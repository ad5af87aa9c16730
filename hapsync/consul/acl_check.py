"""Asking Consul what a token may do."""

import http
import json
from collections.abc import Collection

from hapsync.consul.acl_policy import Right
from hapsync.consul.client import ConsulClient
from hapsync.errors import CatalogError
from hapsync.text import shown


def read_missing(agent: ConsulClient, rights: Collection[Right]) -> tuple[Right, ...] | None:
    """Return those of `rights` that the token of `agent` lacks; None where Consul has no ACLs or does not tell.

    `/v1/internal/acl/authorize` is what Consul's own web interface asks (measured with 1.8.7 and 1.14.11): it answers
    for the token of the request, which needs no right for it; 401 where ACLs are off, 403 for a token that is none.

    Raises CatalogError where Consul does not answer, or does not know the token.
    """
    asked = [{"Resource": one.resource, "Access": one.access, "Segment": one.name} for one in rights]
    params = [("dc", agent.dc)] if agent.dc else None
    headers = {"X-Consul-Token": agent.token} if agent.token else {}
    answer = agent.http.post(
        lambda response: response, "/v1/internal/acl/authorize", params, json.dumps(asked).encode(), headers
    )
    if answer.code == http.HTTPStatus.FORBIDDEN:
        said = shown(answer.body[:200].decode("utf-8", "replace").strip())
        hint = "is it of this datacenter, and not expired?"
        raise CatalogError(f"[consul] token: Consul does not know it ({said}); {hint}")
    if answer.code != http.HTTPStatus.OK:
        return None
    try:
        allowed = [bool(one["Allow"]) for one in json.loads(answer.body)]
    except (ValueError, TypeError, KeyError):
        return None
    if len(allowed) != len(asked):
        return None
    return tuple(right for right, may in zip(rights, allowed, strict=True) if not may)
