"""The text of HAProxy's files in, the backends out where `add server` would end HAProxy, which no reply shows.

HAProxy starts the check of an added server on the thread of the command, and one by an external program may run on
the first thread only: with two threads or more the process dies on a bug condition, and its master exits with it
(measured with 2.6.12, 2.8.25, 3.0.11, 3.2.26 and 3.4.7). So no server with a check is added where the check may be
such a one.
"""

from collections.abc import Collection, Sequence

from hapsync.sections import Line, Section, parse_sections

PROGRAM_CHECK = "external-check"
_CHECKS = frozenset(
    {
        *(PROGRAM_CHECK, "httpchk", "tcp-check", "ssl-hello-chk", "smtpchk", "pgsql-check", "mysql-check"),
        *("redis-check", "ldap-check", "spop-check"),
    }
)
"""The words of `option` that say what a check does; the last one counts, none takes `no` (measured, 2.6 to 3.4)."""
_QUOTING = str.maketrans("", "", "\"'\\")
_FATAL = "HAProxy would die of `add server` with a check where `option external-check` is in force"


def has_check(options: str) -> bool:
    """Return whether servers with these words have a health check that an `add server` would start."""
    return "check" in options.split()


def fatal_check(text: str, backend: str) -> str:
    """Return why a server with a check must not be added to `backend`, nothing where it may be.

    `text` is that of all files HAProxy was started with, in their order. What depends on conditions (`.if`) or on
    the environment counts as if it were in force. A backend that is not in the files was added to the running
    HAProxy: it may have any of the `defaults`.
    """
    plain = text.translate(_QUOTING)
    if PROGRAM_CHECK not in plain and "$" not in plain:
        return ""
    sections = parse_sections(plain)
    if not any(_may_be_program(line) for section in sections for line in section.own):
        return ""
    found = [section for section in sections if section.kind in ("backend", "listen") and section.name == backend]
    has_conditions = _has_conditions(sections)
    if not found or has_conditions:
        found += [section for section in sections if section.kind == "defaults"]
    return _why(found, has_conditions=has_conditions)


def safe_defaults(text: str) -> Collection[str]:
    """Return the named `defaults` in `text` that a backend with checked servers may be added from (3.4)."""
    sections = parse_sections(text.translate(_QUOTING))
    has_conditions = _has_conditions(sections)
    return {
        section.name
        for section in sections
        if section.kind == "defaults" and section.name and not _why([section], has_conditions=has_conditions)
    }


def program_check(section: Section) -> Line | None:
    """Return the line that makes the checks of a section's servers run a program."""
    checks = [
        line for line in section.lines if line.begins("option") and line.words[1:2] and line.words[1] in _CHECKS
    ]
    return checks[-1] if checks and checks[-1].words[1] == PROGRAM_CHECK else None


def _has_conditions(sections: Sequence[Section]) -> bool:
    return any(line.words[0].startswith(".") for section in sections for line in section.own)


def _why(sections: Sequence[Section], *, has_conditions: bool) -> str:
    for section in sections:
        lines = [line for line in section.lines if _is_check(line)]
        if any(map(_may_be_program, lines if has_conditions else lines[-1:])):
            return f"{_FATAL}; another kind of check has its servers added live"
        if section.lacks:
            return f"`defaults {section.lacks}` is not in HAProxy's files, and it may have `option external-check`"
    return ""


def _is_check(line: Line) -> bool:
    return _may_be_program(line) or (line.begins("option") and line.words[1:2] != () and line.words[1] in _CHECKS)


def _may_be_program(line: Line) -> bool:
    word = line.words[1] if line.begins("option") and len(line.words) > 1 else ""
    return word == PROGRAM_CHECK or "$" in word
