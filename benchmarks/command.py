"""The whole of `python -m benchmarks`: a server, the contest, and the files."""

import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .contest import Contest, Progress
from .contestants.listing import ENTRIES
from .report import Results, as_json, as_markdown
from .server import serving, version_of
from .works import LOADS, Work, reduced


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run. Empty `works` or `contestants`: all of them. `quick`: as little as shows that it works."""

    server: str = "valkey"
    works: Sequence[str] = ()
    contestants: Sequence[str] = ()
    quick: bool = False


def run(options: Options, progress: Progress) -> Results:
    """Run the benchmarks. Raises `ConfigurationError` where the server cannot be started."""
    loads = [load for load in LOADS if not options.works or load.work.value in options.works]
    # A contestant is nothing without the floor that it is measured by.
    wanted = {entry.floor for entry in ENTRIES if entry.name in options.contestants} | set(options.contestants)
    entries = [entry for entry in ENTRIES if not wanted or entry.name in wanted]
    begins = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, serving(options.server, Path(folder)) as url:
        contest = Contest(url, entries, progress)
        figures, counts = [], []
        for load in loads:
            figures += contest.timed(reduced(load) if options.quick else load)
            # Many clients cost what one costs, many times.
            counts += [] if load.work is Work.MANY else contest.counted(load)
        machine = _machine(version_of(url))
    return Results(
        machine=machine,
        loads=loads,
        entries=[entry for entry in entries if entry.name not in contest.missing],
        figures=figures,
        counts=counts,
        missing=contest.missing,
        seconds=time.perf_counter() - begins,
    )


def write(results: Results, folder: Path) -> list[Path]:
    """Write `results.json`, `results.md` and, where matplotlib is installed, `results.svg` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "results.json", folder / "results.md"]
    written[0].write_text(as_json(results), encoding="utf-8")
    markdown = as_markdown(results)
    try:
        from .chart import draw
    except ImportError:
        pass
    else:
        written.append(folder / "results.svg")
        draw(results, written[2])
        markdown = markdown.replace("## Counted", "![Time as a multiple of the floor](results.svg)\n\n## Counted", 1)
    written[1].write_text(markdown, encoding="utf-8")
    return written


def _machine(server: str) -> dict[str, str]:
    return {
        "server": server,
        "Python": platform.python_version(),
        "redis-py": version("redis"),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }
