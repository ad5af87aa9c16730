"""All cases on one HAProxy, several at a time, each in a process of its own."""

import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hapsync.haproxy.capabilities import spelled_out, version_of as numbers_of
from tests.harness.processes import short_folder
from tests.scan.cases import CASES, COMPARED_SHORTLY
from tests.scan.listener import Certificates, make_certificates
from tests.scan.playing import DIES, HANGS, LIVES, NOT_TAKEN, NOT_THERE, SAME, difference, lives

AT_A_TIME = 8


def version_of(program: str) -> str:
    """The version that an HAProxy says it is, as in `3.2.26-1`."""
    return subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]


def scan(program: str, *, is_short: bool = False) -> Mapping[str, str]:
    """What was found of each case: that a server is the same as one of the file, or how it is not.

    `is_short`: only a few are compared, and servers are deleted without the rest that hapsync gives them.
    """
    with short_folder() as base, ThreadPoolExecutor(AT_A_TIME) as pool:
        certificates = make_certificates(base)
        outcomes = pool.map(lambda name: outcome(program, name, certificates, is_short=is_short), CASES)
        return dict(zip(CASES, outcomes, strict=True))


def outcome(program: str, name: str, certificates: Certificates, *, is_short: bool = False) -> str:
    """One word about one case, or a few."""
    case, version = CASES[name], numbers_of(version_of(program))
    with short_folder() as folder:
        _copy(certificates, folder)
        found = lives(program, case, folder, certificates, *([0.0] if is_short else []))
        if found == NOT_THERE or found in {DIES, HANGS} or found.startswith(NOT_TAKEN):
            return NOT_TAKEN if found.startswith(NOT_TAKEN) else found
        if not case.is_compared or (is_short and name not in COMPARED_SHORTLY):
            return LIVES
        found = _differs(difference(program, version, case, folder, certificates, spelled=True))
        words = spelled_out(version, case.words)
        # Before 3.0 none is the same without the words about idle connections.
        if found != SAME or is_short or not words or not _about_checks(words):
            return found
        # What hapsync spells out should be what makes them the same.
        plain = difference(program, version, case, folder, certificates, spelled=False)
        return SAME if plain != SAME else f"{SAME}, even without {' '.join(words)}"


def _about_checks(words: tuple[str, ...]) -> bool:
    return all(word.startswith("check-") for word in words)


def _differs(found: str) -> str:
    """The names of what differs; values change from run to run."""
    if found in {SAME, DIES, HANGS, NOT_THERE}:
        return found
    if found.startswith(NOT_TAKEN):
        return NOT_TAKEN
    return f"differs: {', '.join(part.partition(':')[0] for part in found.split('; '))}"


def _copy(certificates: Certificates, folder: Path) -> None:
    for file in (certificates.authority, certificates.server, certificates.client):
        shutil.copy(file, folder)
