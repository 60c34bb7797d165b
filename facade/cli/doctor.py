"""The command `doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click
from phr_refresh.adapters.doctor.findings import CHECK_WIDTH, MARK_WIDTH, Finding, Level, as_plain, counts_of, faults_of
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..doctor import examine
from .parts import json_option

_STYLES = {Level.OK: "green", Level.UNKNOWN: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command("doctor")
@click.option("--store", envvar="PHR_REFRESH_STORE", default=None, help="Store URL, by default the service's.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@json_option()
def doctor(store: str | None, strict: bool, as_json_: bool) -> int:
    """Examine settings, secrets, store and upstream: a line for each finding, and what to do about it.

    It goes by the environment of the service: run it there. Nothing is changed, and no patient is asked about.
    Exit code 1 if something is wrong.

    Example: phr-refresh doctor --store redis://localhost:6379/0
    """
    findings = examine(store_url=store)
    found = list(findings) if as_json_ else _shown(findings, Console())
    if as_json_:
        click.echo(json.dumps(as_plain(found), indent=2))
    return 1 if faults_of(found, strict=strict) else 0


def _shown(findings: Iterable[Finding], console: Console) -> list[Finding]:
    """Print each finding as it is made, on a terminal in columns, elsewhere as one line; all of them at the end."""
    found = []
    for finding in findings:
        found.append(finding)
        if console.is_terminal:
            console.print(_columns(finding))
        else:
            click.echo(finding.line)
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
    row.add_row(Text(finding.mark, style=_STYLES[finding.level]), finding.check, text)
    return row
