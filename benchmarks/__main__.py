"""The benchmarks: `python -m benchmarks`, from the checkout. Needs the extras `cli` and `bench`."""

from __future__ import annotations

from pathlib import Path

import click

from .command import Options, run, write
from .contestants.listing import ENTRIES
from .report import as_markdown
from .works import Work


@click.command()
@click.option(
    "--server",
    type=click.Choice(["valkey", "redis"]),
    default="valkey",
    show_default=True,
    help="The wheel's, or that on PATH.",
)
@click.option("--work", "works", multiple=True, help="Only this work, such as status_read; can be repeated.")
@click.option("--contestant", "contestants", multiple=True, help="Only this one, beside its floor; can be repeated.")
@click.option("--quick", is_flag=True, help="As little as shows that it works: its times mean nothing.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("benchmark-results"),
    show_default=True,
    help="Where to write results.json, results.md and results.svg.",
)
def bench(server: str, works: tuple[str, ...], contestants: tuple[str, ...], quick: bool, out: Path) -> None:
    """Measure phr-refresh beside bare redis-py and beside what else could do its work.

    It starts a server of its own on a free loopback port, and takes up to five minutes.

    Example: python -m benchmarks --work status_read --contestant phr-refresh
    """
    _check("--work", works, [work.value for work in Work])
    _check("--contestant", contestants, [entry.name for entry in ENTRIES])
    options = Options(server=server, works=works, contestants=contestants, quick=quick)
    results = run(options, lambda text: click.echo(text, err=True))
    click.echo(as_markdown(results))
    for path in write(results, out):
        click.echo(f"written: {path}", err=True)


def _check(option: str, given: tuple[str, ...], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise click.BadParameter(f"{name} is not known; use {', '.join(known)}.", param_hint=option)


if __name__ == "__main__":
    bench()
