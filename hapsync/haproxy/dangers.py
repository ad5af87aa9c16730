"""The sections of HAProxy's files in; out: the backends that take servers live, and those where HAProxy dies of it.

HAProxy starts the check of an added server on the thread of the command. A check by an external program may run on
the first thread only: with two threads or more the process dies on a bug condition, and its master exits with it
(measured with 2.6.12, 2.8.25, 3.0.11, 3.2.26 and 3.4.7). A `disabled` backend has no load balancing: 3.4.7 divides by
zero when a server is added to it (older versions refuse). `tests/scan` looks for more such cases.
"""

from collections.abc import Collection, Iterable, Sequence

from hapsync.haproxy.cfg import Line, Section

PROGRAM_CHECK = "external-check"
_CHECKS = frozenset(
    {
        *(PROGRAM_CHECK, "httpchk", "tcp-check", "ssl-hello-chk", "smtpchk", "pgsql-check", "mysql-check"),
        *("redis-check", "ldap-check", "spop-check"),
    }
)
"""The words of `option` that set the kind of a check; the last one counts, none takes `no` (measured, 2.6 to 3.4)."""
_OFF = "disabled"
HASHES = frozenset({"source", "uri", "url_param", "hdr", "rdp-cookie", "hash"})
"""Algorithms that are dynamic with `hash-type consistent` only (manual, `balance`)."""
_DYNAMIC = frozenset({"roundrobin", "leastconn", "first", "random"})
_NO_BALANCE = frozenset({"disabled", "dispatch"})
_FATAL = "HAProxy would die of `add server` with a check where `option external-check` is in force"


def has_check(options: str) -> bool:
    """Return whether servers with these words have a health check that an `add server` would start."""
    return "check" in options.split()


def fatal_addition(sections: Sequence[Section], backend: str, options: str) -> str:
    """Return why a server with these `options` must not be added to `backend`; empty where it may be.

    `sections` are those of all files of HAProxy's start, in their order. Lines under conditions (`.if`) or with
    environment variables count as in force. A backend outside the files was added to the running HAProxy, so any of
    the `defaults` may apply to it.
    """
    if not any(_may_be_program(line) or _is_off(line) for section in sections for line in section.own):
        return ""
    found = [section for section in sections if section.has_servers and section.name == backend]
    is_conditional = has_conditions(sections)
    if not found or is_conditional:
        found += [section for section in sections if section.kind == "defaults"]
    return _why(found, is_checked=has_check(options), is_conditional=is_conditional)


def safe_defaults(sections: Sequence[Section], *, is_checked: bool) -> Collection[str]:
    """Return the named `defaults` of `sections` that a backend may be added from, servers and all (3.4)."""
    is_conditional = has_conditions(sections)
    return {
        section.name
        for section in sections
        if section.kind == "defaults"
        and section.name
        and not _why([section], is_checked=is_checked, is_conditional=is_conditional)
    }


def has_conditions(sections: Iterable[Section]) -> bool:
    """Return whether lines of `sections` depend on conditions such as `.if`."""
    return any(line.words[0].startswith(".") for section in sections for line in section.own)


def takes_servers(sections: Sequence[Section]) -> Collection[str]:
    """Return the backends (and listens) of `sections` that surely take servers from `add server`, by their own lines.

    These backends need a dynamic load balancing and a mode that supports it (2.6 to 3.4, `add server`). Lines that
    depend on conditions or the environment are not sure.
    """
    if has_conditions(sections):
        return ()
    return {one.name for one in sections if one.has_servers and _is_dynamic(one)}


def _is_dynamic(section: Section) -> bool:
    mode, balance, hash_type = (section.last(word) for word in ("mode", "balance", "hash-type"))
    if section.lacks or (mode is not None and mode.words[1:] not in {("http",), ("tcp",)}):
        return False
    if any(line.words[0] in _NO_BALANCE or line.words[:2] == ("option", "transparent") for line in section.lines):
        return False
    algorithm = "roundrobin" if balance is None else balance.words[1].partition("(")[0] if balance.words[1:] else ""
    is_consistent = hash_type is not None and hash_type.words[1:2] == ("consistent",)
    return algorithm in _DYNAMIC or (algorithm in HASHES and is_consistent)


def program_check(section: Section) -> Line | None:
    """Return the line that makes the checks of a section's servers run a program."""
    checks = [line for line in section.lines if _option(line) in _CHECKS]
    return checks[-1] if checks and _option(checks[-1]) == PROGRAM_CHECK else None


def _why(sections: Sequence[Section], *, is_checked: bool, is_conditional: bool) -> str:
    for section in sections:
        checks = [line for line in section.lines if _option(line) in _CHECKS or _may_be_program(line)]
        if is_checked and any(map(_may_be_program, checks if is_conditional else checks[-1:])):
            return f"{_FATAL}; another kind of check has its servers added live"
        switches = [line for line in section.lines if line.words[0] in ("enabled", _OFF)]
        if any(map(_is_off, switches if is_conditional else switches[-1:])):
            return "the backend is `disabled`, and HAProxy may die of `add server` there"
        if section.lacks:
            return f"`defaults {section.lacks}` is not in HAProxy's files, and what it has in force is not known"
    return ""


def _option(line: Line) -> str:
    """Return the option that `line` switches on; empty for another line."""
    return line.words[1] if line.begins("option") and len(line.words) > 1 else ""


def _may_be_program(line: Line) -> bool:
    return _option(line) == PROGRAM_CHECK or "$" in _option(line)


def _is_off(line: Line) -> bool:
    return line.words[0] == _OFF
