"""The picture of the demo in README.md: some of its scenes, as a terminal shows them, in one SVG."""

import io
import re
from collections.abc import Iterable, Sequence

import rich.console
from rich.text import Text

SCENES = ("A check fails", "Maintenance of a node", "All is deregistered by mistake", "Summary")
"""How the titles of those in the picture begin: as many as a first screen has room for."""
_STYLES = (
    (r"^\S.*?(?=  |[\d ]+ requests,|$)", "bold"),
    (r"(?<=\d s  )Consul\b", "magenta"),
    (r"(?<=\d s  )HAProxy\b", "green"),
    (r"\b0 failed\b|(?<=failed {27})0$", "green"),
    (r"\b[\d.]+ ms\b", "cyan"),
)
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def picture(scenes: Iterable[Sequence[str]]) -> str:
    """Return the SVG of the scenes that are in the picture; each is its lines, the title first.

    It loads nothing: the fonts that Rich would fetch are left out, and the terminal's own one is used.
    """
    shown = [scene for scene in scenes if scene[0].startswith(SCENES)]
    lines = ["$ make demo", *(line for scene in shown for line in ("...", *scene))]
    console = rich.console.Console(record=True, width=max(map(len, lines)) + 1, file=io.StringIO())
    for line in lines:
        text = Text(line)
        for pattern, style in _STYLES:
            text.highlight_regex(pattern, style)
        console.print(text, soft_wrap=True)
    return _FONTS.sub("", console.export_svg(title=""))
