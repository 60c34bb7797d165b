"""Counting: a proxy before the server, which counts the bytes both ways and the turns between asking and hearing.

A round trip is what a client waits for: it says something, be it one command or a pipeline of them, and is answered.
Exact while one client speaks at a time, which is how the counts are taken.
"""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_CHUNK = 1 << 16
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Traffic:
    """What has passed."""

    round_trips: int = 0
    sent: int = 0
    received: int = 0


class Proxy:
    """Passes connections on. `url` is where clients connect to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._door.getsockname()[1]}"
        self._traffic = Traffic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="benchmark-proxy", daemon=True)
        self._thread.start()

    def take(self) -> Traffic:
        """What has passed since the last time."""
        with self._lock:
            traffic, self._traffic = self._traffic, Traffic()
        return traffic

    def close(self) -> None:
        """End every connection."""
        self._ended.set()
        self._thread.join()

    def _pass_on(self) -> None:
        with ExitStack() as sockets, selectors.DefaultSelector() as selector:
            sockets.enter_context(self._door)
            selector.register(self._door, selectors.EVENT_READ, None)
            asking: set[socket.socket] = set()
            while not self._ended.is_set():
                for key, _ in selector.select(_LOOK_SECONDS):
                    if key.data is None:
                        self._let_in(selector, sockets)
                    else:
                        self._carry(key.fileobj, key.data, asking, selector)  # type: ignore[arg-type]

    def _let_in(self, selector: selectors.BaseSelector, sockets: ExitStack) -> None:
        client, _ = self._door.accept()
        server = socket.create_connection(self._server)
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.enter_context(side)
        selector.register(client, selectors.EVENT_READ, (server, client))
        selector.register(server, selectors.EVENT_READ, (client, client))

    def _carry(
        self,
        source: socket.socket,
        to: tuple[socket.socket, socket.socket],
        asking: set[socket.socket],
        selector: selectors.BaseSelector,
    ) -> None:
        target, client = to
        try:
            data = source.recv(_CHUNK)
            if data:
                # Counted before it is passed on: who has its answer may take the count at once.
                self._count(len(data), client, asking, is_asking=source is client)
                target.sendall(data)
                return
        except OSError:
            pass
        # One side has ended; what was read of the other side in the same look may come here again.
        for side in (source, target):
            if side.fileno() >= 0:
                selector.unregister(side)
                side.close()

    def _count(self, size: int, client: socket.socket, asking: set[socket.socket], *, is_asking: bool) -> None:
        with self._lock:
            if is_asking:
                self._traffic.sent += size
                asking.add(client)
            else:
                self._traffic.received += size
                self._traffic.round_trips += client in asking
                asking.discard(client)


@contextmanager
def counting(url: str) -> Iterator[Proxy]:
    """A proxy before the server at `url`."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
