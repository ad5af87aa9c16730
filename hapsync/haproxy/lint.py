"""The text of a haproxy.cfg in; out: advice on lines that make a reload lose requests or runtime changes unsafe."""

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from hapsync.config.schema import BackendConfig
from hapsync.haproxy.cfg import Line, Section, parse_sections, word_after
from hapsync.haproxy.dangers import HASHES, has_check, program_check
from hapsync.model.server import is_ours

LONG_SECONDS = 5
"""A longer time between checks is too long for a new worker, which counts every server as up at first."""
SHORT_SECONDS = 60
"""A shorter `hard-stop-after` cuts requests of waiting users."""
_MAY_TRACK = frozenset({"server", "server-template", "default-server"})
_CUTS = "it cuts the sessions of each server that leaves; take it out, unless the cut is wanted"
_SAMPLE = re.compile(r"\bsrv_[a-z_]+\(([^(),]+)\)")
"""A sample fetch about one server (configuration manual, section 7.3.2)."""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1e-3}


@attrs.frozen
class LintMessage:
    """One piece of advice: the line (0: a line is missing), where it is in force, the reason, and the remedy."""

    line: int
    where: str
    what: str


Advice = tuple[Line, str]
"""A line, and the advice about it."""


def lint(text: str, backends: Mapping[str, BackendConfig], *, has_master: bool = True) -> Sequence[LintMessage]:
    """Return the advice on `text`, a rendered configuration, for the `backends` that hapsync manages.

    `has_master`: HAProxy is reloaded through its master, so its workers hand their sockets over by themselves.
    """
    return [
        LintMessage(line.number, f"{section.kind} {section.name}".strip(), what)
        for section in parse_sections(text)
        for line, what in _about(section, backends, has_master=has_master)
    ]


def _about(section: Section, backends: Mapping[str, BackendConfig], *, has_master: bool) -> Iterator[Advice]:
    if section.kind == "global":
        yield from _about_global(section)
        if not has_master:
            yield from _about_handover(section)
    if section.kind in ("frontend", "listen"):
        yield from _about_clients(section)
    if section.is_proxy:
        yield from _about_slots_by_name(section, backends)
    if section.kind in ("backend", "listen") and section.name in backends:
        yield from _about_servers(section, backends[section.name])


def _at(line: Line, why: str) -> Advice:
    return line, f"`{' '.join(line.words)}`: {why}"


def _at_head(section: Section, why: str) -> Advice:
    return section.head, why


def _about_global(section: Section) -> Iterator[Advice]:
    for line in section.own:
        if line.begins("hard-stop-after") and _seconds(line.words[-1]) < SHORT_SECONDS:
            yield _at(line, "a reload cuts longer sessions; give downloads and WebSockets minutes")
        elif line.begins("mworker-max-reloads") and line.words[-1].isdigit() and int(line.words[-1]) <= 1:
            yield _at(line, "a second reload ends old workers with what they serve; allow more")
        elif line.begins("grace"):
            yield _at(line, "workers that are stopping go on accepting connections; take it out")


def _about_handover(section: Section) -> Iterator[Advice]:
    sockets = [line for line in section.own if line.begins("stats", "socket")]
    if not any("expose-fd listeners" in " ".join(line.words) for line in sockets):
        why = (
            "no `stats socket` has `expose-fd listeners`: unless HAProxy runs as master and workers, a reload leaves "
            "a moment in which nobody listens; add it, and start the new process with `-x` and that socket"
        )
        yield sockets[0] if sockets else section.head, why


def _about_clients(section: Section) -> Iterator[Advice]:
    mode = section.last("mode")
    if mode is not None and mode.words[1:2] != ("http",):
        return
    if section.has_option("idle-close-on-response") is None:
        yield _at_head(
            section,
            "without `option idle-close-on-response` a reload closes kept connections just as a client may send its "
            "next request; put it into `defaults`",
        )


def _about_servers(section: Section, config: BackendConfig) -> Iterator[Advice]:
    yield from _about_balance(section, config)
    yield from _about_checks(section, config)
    words = config.server_options.split()
    if "verifyhost" in words and "sni" not in words and "no-sni-auto" not in words:
        yield _at_head(
            section,
            "`verifyhost` without `sni` in server_options: HAProxy 3.4 sends the request's Host as SNI and checks "
            "the certificate for that instead; add `sni str(NAME)` with the same name",
        )
    for line in section.lines:
        if line.begins("default-server"):
            yield from _about_default_server(line, section)
        elif line.begins("load-server-state-from-file") and line.words[1:2] != ("none",):
            yield _at(line, "it brings back old ports under the addresses of the file; take it out")
    if "cookie" in words:
        yield _at_head(
            section,
            "a `cookie` in server_options is one for all servers; use `cookie NAME insert dynamic` and "
            "`dynamic-cookie-key` in the backend instead",
        )
    elif (cookie := section.last("cookie")) is not None and "dynamic" not in cookie.words:
        yield _at(cookie, "servers of hapsync's have no cookie; add `dynamic`, and `dynamic-cookie-key`")
    if "shutdown-sessions" in words:
        yield _at_head(section, f"`on-marked-down shutdown-sessions` in server_options: {_CUTS}")
    redispatch = section.has_option("redispatch")
    retries = section.last("retries")
    if redispatch is None or (retries is not None and retries.words[1:2] == ("0",)):
        yield _at_head(
            section,
            "a worker that is stopping never learns that a server left; with `option redispatch 1` and `retries 3` "
            "it finds another",
        )


def _about_default_server(line: Line, section: Section) -> Iterator[Advice]:
    own = {"weight": "", "on-marked-down": ""}
    others: list[str] = []
    words = iter(line.words[1:])
    for word in words:
        if word in own:
            own[word] = next(words, "")
        else:
            others.append(word)
    if others:
        what = "its words" if len(others) == len(line.words) - 1 else f"`{' '.join(others)}`"
        yield _at(line, f"`add server` does not heed it; put {what} into server_options")
    if own["on-marked-down"] == "shutdown-sessions":
        yield _at(line, _CUTS)
    if own["weight"] not in ("", "1") and any(_is_foreign(one) and "weight" not in one.words for one in section.own):
        why = (
            f"it gives the foreign servers weight {own['weight']}, and hapsync's have what Consul says, 1 unless "
            "registered otherwise; take `weight` out of it, or give each foreign server its own"
        )
        yield _at(line, why)


def _is_foreign(line: Line) -> bool:
    return line.words[0] in ("server", "server-template") and len(line.words) > 1 and not is_ours(line.words[1])


def _about_slots_by_name(section: Section, backends: Mapping[str, BackendConfig]) -> Iterator[Advice]:
    """Yield advice on lines with the name of one of hapsync's servers, which another instance may have tomorrow."""

    def is_slot(name: str) -> bool:
        backend, _, server = name.rpartition("/")
        return (backend or section.name) in backends and is_ours(server)

    for line in section.own:
        if line.words[0] in _MAY_TRACK and is_slot(word_after(line.words, "track")):
            why = "it goes into maint with the tracked slot, whichever instance has it; give it a check of its own"
            yield _at(line, why)
        if line.begins("use-server") and line.words[1:] and is_slot(line.words[1]):
            why = "the slot is another instance's as they come and go; give those you mean a service of their own"
            yield _at(line, why)
        named = next((one[0] for one in _SAMPLE.finditer(" ".join(line.words)) if is_slot(one[1])), None)
        if named is not None:
            why = f"`{named}` asks for a slot, whichever instance has it; ask for the backend, as in `nbsrv(NAME)`"
            yield _at(line, why)


def _about_checks(section: Section, config: BackendConfig) -> Iterator[Advice]:
    if not has_check(config.server_options):
        return
    program = program_check(section)
    if program is not None:
        why = (
            "HAProxy dies where a server with such a check is added live, so what finds no free slot costs a reload, "
            "and so does a new backend; with another kind of check both are added live"
        )
        yield _at(program, why)
    inter = word_after(config.server_options.split(), "inter") or "2s"
    if _seconds(inter) > LONG_SECONDS:
        yield _at_head(
            section,
            f"a new worker takes every server for up until its first check, here for up to {inter} after a reload; "
            "make `inter` in server_options shorter",
        )


def _about_balance(section: Section, config: BackendConfig) -> Iterator[Advice]:
    balance = section.last("balance")
    if balance is None or len(balance.words) == 1:
        return
    algorithm = balance.words[1].partition("(")[0]
    if algorithm == "static-rr":
        yield _at(balance, "it refuses weights, and servers cannot be added live; use `roundrobin`")
    if algorithm not in HASHES:
        return
    hash_type = section.last("hash-type")
    if hash_type is None or hash_type.words[1:2] != ("consistent",):
        why = "each server that comes or goes moves most keys, and weights are refused; add `hash-type consistent`"
        yield _at(balance, why)
    elif "hash-key" not in config.server_options.split():
        why = "keys go by the slot; from HAProxy 3.0 on `hash-key addr-port` in server_options goes by the instance"
        yield _at(balance, why)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(us|ms|s|m|h|d|)", text)
    return int(found[1]) * _UNITS[found[2]] if found else float("inf")
