"""The command `check-history`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..testing.history import check, read_history
from .views import as_json


@click.command("check-history")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--tolerance", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Seconds that clocks may differ."
)
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
def check_history(file: Path, tolerance: float, as_json_: bool) -> int:
    """Check that one order explains every load and write in FILE, as RecordedStore wrote it.

    Exit code 1 if none does, or if the order breaks a rule.

    Example: phr-refresh check-history history.jsonl --tolerance 0.05
    """
    verdict = check(read_history(file), tolerance=tolerance)
    if as_json_:
        click.echo(json.dumps(as_json(verdict)))
    else:
        said = f"{verdict.patients} patients, {verdict.calls} calls, {verdict.writes} writes"
        unknown = f" and {verdict.unknown} with an unknown outcome" if verdict.unknown else ""
        click.echo(f"{said}{unknown}: {_count(len(verdict.flaws))}.")
        for flaw in verdict.flaws:
            lines = " and ".join(str(number) for number in flaw.lines)
            click.echo(f"  patient {flaw.patient}, {flaw.rule}: {flaw.what} (lines {lines})")
    return 1 if verdict.flaws else 0


def _count(flaws: int) -> str:
    return {0: "no flaw", 1: "one flaw"}.get(flaws, f"{flaws} flaws")
