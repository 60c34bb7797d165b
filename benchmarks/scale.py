"""The scale curve: what an event costs as patients and processes grow, and whether a process grows with them.

`python -m benchmarks.scale [--patients 1000 10000 100000] [--processes 1 2 4] [--distinct 200000]` prints
Markdown. A million residents take some 400 MB of the server's memory.
"""

import argparse
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from .contestants.ours import Ours, patient_of
from .place import Place, Upstream
from .residents import fill, name_of, settled
from .server import CLUSTER, KINDS, client_of, serving, version_of

_ROUNDS = 15
_PER_ROUND = 100
_SEED = 1


@contextmanager
def _ours(url: str) -> Iterator[Ours]:
    with tempfile.TemporaryDirectory() as folder, closing(Ours(Place(url, folder, Upstream()))) as ours:
        yield ours


def cost(url: str, residents: int) -> tuple[float, float, float]:
    """Median microseconds of a bare `GET`, of a status read and of a logout, for patients drawn among `residents`."""
    dice = random.Random(_SEED)  # noqa: S311
    with _ours(url) as ours, closing(client_of(url)) as bare:
        calls: tuple[Callable[[str], object], ...] = (
            lambda user: bare.get(user),
            lambda user: ours.status(user),
            lambda user: ours.logout(user),
        )
        found: list[list[float]] = [[], [], []]
        for _ in range(_ROUNDS):
            for times, call in zip(found, calls, strict=True):
                users = [name_of(dice.randrange(residents)) for _ in range(_PER_ROUND)]
                begins = time.perf_counter()
                for user in users:
                    call(user)
                times.append((time.perf_counter() - begins) / _PER_ROUND * 1e6)
    reading, status, logout = (statistics.median(times) for times in found)
    return reading, status, logout


def curve(url: str, patients: Sequence[int]) -> Iterator[tuple[int, tuple[float, float, float]]]:
    """`cost` with so many residents, one number after the other; they are added to."""
    present = 0
    for count in sorted(patients):
        fill(url, count - present, settled(), after=present)
        present = count
        yield count, cost(url, count)


def _read_statuses(url: str, residents: int, seconds: float, begin: float) -> int:
    dice = random.Random()  # noqa: S311
    done = 0
    with _ours(url) as ours:
        ours.status(name_of(0))
        time.sleep(max(begin - time.time(), 0))
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            for _ in range(20):
                ours.status(name_of(dice.randrange(residents)))
            done += 20
    return done


def throughput(url: str, residents: int, processes: int, seconds: float = 3.0) -> float:
    """Status reads in a second, by so many processes together."""
    context = multiprocessing.get_context("spawn")
    begin = time.time() + 2.0
    with context.Pool(processes) as pool:
        done = pool.starmap(_read_statuses, [(url, residents, seconds, begin)] * processes)
    return sum(done) / seconds


def growth(url: str, patients: int) -> float:
    """By how many MB this process grows while so many patients, none of them twice, are looked at through it."""
    with _ours(url) as ours:
        for number in range(2000):
            ours.status(name_of(number))
        before = _resident_kilobytes()
        for number in range(2000, 2000 + patients):
            ours.status(name_of(number))
        return (_resident_kilobytes() - before) / 1024


def logins_growth(url: str, patients: int) -> float:
    """The same while each is logged in, and their refresh kicked off."""
    with _ours(url) as ours:
        for number in range(2000):
            _log_in(ours, number)
        before = _resident_kilobytes()
        for number in range(2000, 2000 + patients):
            _log_in(ours, number)
        return (_resident_kilobytes() - before) / 1024


def _log_in(ours: Ours, number: int) -> None:
    ours.login(f"newcomer-{number}")
    ours.forget(patient_of(f"newcomer-{number}"))


def _resident_kilobytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def main() -> None:
    """Print what was found as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=(*KINDS, CLUSTER), default=KINDS[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--distinct", type=int, default=200_000, help="patients through one process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(options.server, Path(folder)) as url:
        print(f"{version_of(url)}\n\n| residents | bare GET, us | status, us | logout, us |\n|---|---|---|---|")  # noqa: T201
        for count, times in curve(url, options.patients):
            print(f"| {count:,} | " + " | ".join(f"{each:.0f}" for each in times) + " |", flush=True)  # noqa: T201
        print("\n| processes | status reads a second |\n|---|---|")  # noqa: T201
        for processes in options.processes:
            print(f"| {processes} | {throughput(url, max(options.patients), processes):,.0f} |", flush=True)  # noqa: T201
        print(f"\nstatus of {options.distinct:,} patients: {growth(url, options.distinct):+.1f} MB")  # noqa: T201
        some = options.distinct // 4
        print(f"login of {some:,} new patients: {logins_growth(url, some):+.1f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
