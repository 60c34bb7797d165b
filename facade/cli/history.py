"""The command `check-history`."""

from __future__ import annotations

from pathlib import Path

import click

from ..testing.history import Verdict, check, read_history
from .parts import json_option, show


@click.command("check-history")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--tolerance", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Seconds that clocks may differ."
)
@json_option()
def check_history(file: Path, tolerance: float, as_json_: bool) -> int:
    """Check that one order explains every load and write in FILE, as RecordedStore wrote it.

    Exit code 1 if none does, or if the order breaks a rule.

    Example: phr-refresh check-history history.jsonl --tolerance 0.05
    """
    verdict = check(read_history(file), tolerance=tolerance)
    show(verdict, _lines, json_wanted=as_json_)
    return 1 if verdict.flaws else 0


def _lines(verdict: Verdict) -> list[str]:
    said = f"{verdict.patients} patients, {verdict.calls} calls, {verdict.writes} writes"
    unknown = f" and {verdict.unknown} with an unknown outcome" if verdict.unknown else ""
    flaws = {0: "no flaw", 1: "one flaw"}.get(len(verdict.flaws), f"{len(verdict.flaws)} flaws")
    shown = [
        f"  patient {flaw.patient}, {flaw.rule}: {flaw.what} (lines {' and '.join(map(str, flaw.lines))})"
        for flaw in verdict.flaws
    ]
    return [f"{said}{unknown}: {flaws}.", *shown]
