"""The command `doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click
from phr_refresh.adapters.doctor.findings import CHECK_WIDTH, MARK_WIDTH, MARKS, Finding, Level, counts_of, line_of
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .examining import Doctor
from .views import as_json

_STYLES = {Level.OK: "green", Level.UNKNOWN: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command("doctor")
@click.option("--store", envvar="PHR_REFRESH_STORE", default=None, help="Store URL, by default the service's.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
def doctor(store: str | None, strict: bool, as_json_: bool) -> int:
    """Examine settings, secrets, store and upstream: a line for each finding, and what to do about it.

    It goes by the environment of the service: run it there. Nothing is changed, and no patient is asked about.
    Exit code 1 if something is wrong.

    Example: phr-refresh doctor --store redis://localhost:6379/0
    """
    findings = Doctor.here(store).examine()
    found = list(findings) if as_json_ else _shown(findings, Console())
    if as_json_:
        click.echo(json.dumps({"findings": as_json(found), "counts": counts_of(found)}, indent=2))
    bad = (Level.ERROR, Level.WARNING) if strict else (Level.ERROR,)
    return 1 if any(finding.level in bad for finding in found) else 0


def _shown(findings: Iterable[Finding], console: Console) -> list[Finding]:
    """Print each finding as it is made, on a terminal in columns, elsewhere as one line; all of them at the end."""
    found = []
    for finding in findings:
        found.append(finding)
        if console.is_terminal:
            console.print(_columns(finding))
        else:
            click.echo(line_of(finding))
    counts = ", ".join(f"{number} {level}" for level, number in counts_of(found).items())
    console.print(f"{len(found)} findings: {counts}.", highlight=False)
    return found


def _columns(finding: Finding) -> Table:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=MARK_WIDTH)
    row.add_column(width=CHECK_WIDTH, style="dim")
    row.add_column(overflow="fold")
    text = Text(finding.said)
    if finding.remedy:
        text.append(f"\n-> {finding.remedy}", style="bold")
    row.add_row(Text(MARKS[finding.level], style=_STYLES[finding.level]), finding.check, text)
    return row
