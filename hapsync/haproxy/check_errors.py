"""The output of HAProxy's check in, the backends with faulty servers out."""

import re
from collections.abc import Mapping

from hapsync.haproxy.cfg import is_own_line, parse_sections, server_options_in

# The alerts of HAProxy 2.2 to 3.4: `[ALERT] (123) : config : [FILE:LINE] : ...`, since 3.2 also without `config`.
_ALERT = re.compile(r"(?m)^\[ALERT\][^:]* : (.*)$")
_PLACE = re.compile(r"(?:config : )?(?:parsing )?\[([^][]*):([0-9]+)\]")
_SERVER = re.compile(r"(?:config ?: )*(?:backend|proxy|listen) '([^']*)'[,:] server '([^']*)'")
_DETAIL = re.compile(r"(?:config : )?'([^' ]+)' : ")
_SUMMARY = re.compile(r"(?:config : )?(?:Error\(s\) found in configuration file|Fatal errors found in configuration)")


def backends_at_fault(said: str, text: str, file: str) -> Mapping[str, str]:
    """Return the backends (or listens) whose servers of hapsync's the check blames, each with its first error.

    `said` is the output of the check command about the configuration `text` in `file`. Only the name of the file
    counts, because a check may run with another folder. The result is empty where one alert concerns another subject
    or cannot be attributed, for then servers are not the only cause.
    """
    sections = parse_sections(text)
    own = [
        (section.name, line)
        for section in sections
        if section.has_servers
        for line in section.own
        if is_own_line(line)
    ]
    at_line = {line.number: name for name, line in own}
    names = {(name, line.words[1]) for name, line in own}
    options = {name: words.split() for name, words in server_options_in(sections).items()}
    found: dict[str, str] = {}
    last: str | None = None
    for alert in _ALERT.findall(said):
        if _SUMMARY.match(alert):
            continue
        if place := _PLACE.match(alert):
            is_here = place[1].rpartition("/")[2] == file.rpartition("/")[2]
            last = at_line.get(int(place[2])) if is_here else None
        elif server := _SERVER.match(alert):
            last = server[1] if (server[1], server[2]) in names else None
        elif not ((detail := _DETAIL.match(alert)) and last is not None and detail[1] in options.get(last, ())):
            last = None  # a continuation of the last alert: `'ca-file' : unable to load ...`
        if last is None:
            return {}
        found.setdefault(last, alert)
    return found
