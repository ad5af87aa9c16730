"""What hapsync needs to run is known by name, pinned by hash, free to use, and no more than that."""

import re
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement

from tests.harness.tools import ROOT

NEEDED = {
    "attrs": "MIT",
    "cattrs": "MIT",
    "certifi": "MPL-2.0",
    "charset-normalizer": "MIT",
    "click": "BSD-3-Clause",
    "idna": "BSD-3-Clause",
    "jinja2": "BSD License",
    "markdown-it-py": "MIT License",
    "markupsafe": "BSD-3-Clause",
    "mdurl": "MIT License",
    "pygments": "BSD-2-Clause",
    "pyroute2": "GPL-2.0-or-later OR Apache-2.0",
    "python-consul2": "MIT",
    "requests": "Apache-2.0",
    "rich": "MIT",
    "six": "MIT",
    "typing-extensions": "PSF-2.0",
    "urllib3": "MIT",
}
"""Every distribution that `pip install hapsync` brings, and its licence in its own words.

Each was looked at when it came in. requests and its four are python-consul2's own, and are never imported
(tests/test_imports.py).
"""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str) -> set[str]:
    """The distributions that `name` needs here, and what those need."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for line in metadata.requires(waiting.pop()) or []:
            wanted = Requirement(line)
            needed = plain(wanted.name)
            if (wanted.marker is None or wanted.marker.evaluate({"extra": ""})) and needed not in found:
                found.add(needed)
                waiting.append(needed)
    return found


def licence(name: str) -> str:
    about = metadata.metadata(name)
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")]
    words: list[str] = [*(about.get_all("License-Expression") or []), *(about.get_all("License") or []), *classified]
    return words[0]


def pins() -> dict[str, str]:
    """The pinned versions by name."""
    text = (ROOT / "tests" / "requirements.txt").read_text()
    return {plain(name): version for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^ \\]+)", text)}


def test_hapsync_brings_what_is_known_and_nothing_else() -> None:
    assert closure("hapsync") == set(NEEDED)


def test_everything_it_brings_is_free_to_use() -> None:
    assert {name: licence(name) for name in NEEDED} == NEEDED


def test_everything_it_brings_is_pinned_and_what_is_installed_is_that() -> None:
    assert {name: metadata.version(name) for name in NEEDED} == {name: pins()[name] for name in NEEDED}


def test_every_pin_has_a_hash() -> None:
    text = (ROOT / "tests" / "requirements.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]

    assert len(lines) == len(pins())
    assert [line for line in lines if "--hash=sha256:" not in line] == []


def test_what_is_installed_fits_together() -> None:
    done = subprocess.run(
        (sys.executable, "-m", "pip", "check", "--disable-pip-version-check"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout.strip() == "No broken requirements found."
