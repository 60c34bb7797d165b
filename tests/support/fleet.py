"""What all hosts under test stand on: one upstream, one SQLite file, one Valkey whose wire can be cut."""

import itertools
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import requests
from phr_refresh.adapters.simulator import Fault, Simulator

from .hosts import PATIENCE_SECONDS, Browser, HostUnderTest, RunningHost, environment
from .portal import icn_of

T = TypeVar("T")
Store = Literal["sqlite", "valkey"]


class Wire:
    """Passes a server's traffic on, until it is told to lose it (`hang`), or to reset every connection (`cut`)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._passes = threading.Event()
        self._passes.set()
        self._is_cut = False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self) -> None:
        """From now on nothing comes through; connections are accepted."""
        self._passes.clear()

    def cut(self) -> None:
        """From now on every connection is closed."""
        self._is_cut = True
        self._close_all()

    def restore(self) -> None:
        """Pass on again what comes from now on."""
        self._is_cut = False
        self._close_all()
        self._passes.set()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()
        self._close_all()
        self._passes.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _close_all(self) -> None:
        while self._open:
            with suppress(OSError):
                # Wakes up who reads from it, which `close` alone does not.
                self._open[-1].shutdown(socket.SHUT_RDWR)
            self._open.pop().close()


class Fleet:
    """Starts each host when it is first asked for, and keeps it. Every test takes people of its own."""

    def __init__(self, folder: Path, valkey: Callable[[], int]) -> None:
        self.simulator = Simulator(speed=50).start()
        self._folder = folder
        self._valkey = valkey
        self._wire: Wire | None = None
        self._running: dict[tuple[str, Store, int], RunningHost] = {}
        self._numbers = itertools.count(1)

    def host(self, host: HostUnderTest, store: Store = "sqlite", number: int = 1) -> RunningHost:
        """Its process, one of several on the same store."""
        place = (host.name, store, number)
        if place not in self._running:
            require(host)
            self._running[place] = host.start(environment(self.simulator, self._url(store)))
        return self._running[place]

    @property
    def wire(self) -> Wire:
        """What lies between the hosts and Valkey."""
        if self._wire is None:
            self._wire = Wire(self._valkey())
        return self._wire

    def _url(self, store: Store) -> str:
        if store == "sqlite":
            return f"sqlite:///{self._folder / 'store.db'}"
        # A database of its own: what hosts do behind a test's back is in nobody's way.
        return f"redis://127.0.0.1:{self.wire.port}/9"

    def user(self, behaviour: str = "member") -> str:
        """Somebody who was never seen: see `portal`."""
        return f"{behaviour}-{next(self._numbers)}"

    def kick_offs(self, user: str) -> int:
        """How many refreshes of this user's records the upstream was asked for."""
        of_patient = self.simulator.calls()["patients"].get(self.simulator.pseudonym(icn_of(user)), {})
        return int(of_patient.get("refresh", 0))

    def finished(self, user: str, browser: Browser) -> dict[str, Any]:
        """The status of a refresh that a login has just started, once it has ended."""
        eventually(lambda: self.kick_offs(user))
        return browser.settled()

    def keep_refreshing(self, user: str) -> None:
        """Let no refresh of this user be seen to end: the upstream's status calls fail. See `let_end`."""
        self.simulator.script(Fault("status", "http_error", icn=icn_of(user)))

    def let_end(self) -> None:
        """Let every refresh end again, and everything else go well."""
        self.simulator.clear_faults()

    def close(self) -> None:
        """End every process."""
        for running in self._running.values():
            running.close()
        if self._wire is not None:
            self._wire.close()
        self.simulator.stop()


def require(host: HostUnderTest) -> None:
    """Skip the test where the host's framework is not installed; in CI that fails."""
    if host.missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(host.missing)} missing: in CI every host is tested")
    if host.missing:
        pytest.skip(f"no {', '.join(host.missing)} here")


def eventually(look: Callable[[], T | None]) -> T:
    """What `look` gives once it gives anything true. What a login hands over begins a moment later."""
    between = threading.Event()
    for _ in range(PATIENCE_SECONDS * 50):
        if found := look():
            return found
        between.wait(0.02)
    raise AssertionError("it never came")


def until_refreshing(browser: Browser) -> Mapping[str, str]:
    """Ask for the status until it is 202; its headers."""

    def look() -> requests.Response | None:
        answer = browser.get("status")
        return answer if answer.status_code == 202 and answer.json()["state"] == "refreshing" else None

    return eventually(look).headers
