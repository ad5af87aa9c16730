"""Servers that are checked by a program, for a stage."""

from tests.demo.stage import Stage

PROGRAM = "    option external-check\n    external-check command /bin/true\n"


def let_programs_check(stage: Stage, *, after: str) -> None:
    """Let the servers be checked by a program, from the line `after` on; more threads than one must be there."""
    template = stage.work / "haproxy.cfg.j2"
    text = template.read_text(encoding="utf-8")
    assert text.count(f"\n{after}\n") == 1
    text = text.replace(f"\n{after}\n", f"\n{after}\n{PROGRAM}")
    text = text.replace("\nglobal\n", "\nglobal\n    nbthread 4\n    external-check\n    insecure-fork-wanted\n")
    # A check of HTTP further down would be in force instead.
    lines = [
        line
        for line in text.splitlines(keepends=True)
        if not line.strip().startswith(("option httpchk", "http-check"))
    ]
    template.write_text("".join(lines), encoding="utf-8")
    stage.haproxy.config.write_text(stage.hapsync("render", check=True).stdout, encoding="utf-8")
    stage.haproxy.reload()
