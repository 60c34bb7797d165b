"""A scriptable proxy before a real Redis server: it lets the n-th matching command, or each of them, go wrong."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1
from typing import BinaryIO, Final

from phr_refresh.adapters.stores.redis_commands import Script

_KINDS: Final = {Script.named(name).sha.encode(): name for name in ("load", "write", "due")}
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Exchange:
    """One command of a client. `ask` has the server run it, and gives its reply as it came."""

    near: socket.socket
    ask: Callable[[], bytes]
    over: threading.Event

    def wait_for_the_client(self) -> None:
        """Until the client goes away."""
        while self.near.recv(65_536):
            pass


#: Lets one command go wrong; whether the connection can be used further.
Act = Callable[[Exchange], bool]


@dataclass(frozen=True)
class Fault:
    """`act` happens to commands of one of the kinds `at`: not to the first `skip`, then `times` times."""

    act: Act
    at: tuple[str, ...] = ("load", "write", "due")
    skip: int = 0
    times: int | None = None


class Proxy:
    """Passes commands on to the server at `port`, one by one, until it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._fault: Fault | None = None
        self._met = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = self._listener.getsockname()
        self._spawn(self._accept, self._listener)

    @property
    def url(self) -> str:
        """What to give to `open_store`."""
        return f"redis://127.0.0.1:{self.address[1]}"

    @contextmanager
    def striking(self, fault: Fault) -> Iterator[None]:
        """Let `fault` happen; its count begins anew."""
        with self._lock:
            self._fault, self._met = fault, 0
        yield
        with self._lock:
            self._fault = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens, and what was connected is cut."""
        # The port stays ours: bound again at once, to a socket that does not listen.
        placeholder = socket.socket()
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._stop_listening()
        self._cut()
        placeholder.bind(self.address)
        yield
        placeholder.listen(64)
        self._listener = placeholder
        self._spawn(self._accept, placeholder)

    def close(self) -> None:
        """End every connection and thread."""
        self._over.set()
        self._stop_listening()
        self._cut()
        for thread in self._threads:
            thread.join(5)

    def _stop_listening(self) -> None:
        with suppress(OSError):
            # Closing alone does not wake a thread that accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _cut(self) -> None:
        with self._lock:
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _spawn(self, work: Callable[[socket.socket], None], given: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(given,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                self._spawn(self._serve, listener.accept()[0])

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far, suppress(OSError):
            with self._lock:
                self._sockets |= {near, far}
            with near.makefile("rb") as asked, far.makefile("rb") as told:
                while words := read_command(asked):
                    if not self._take(words, near, Wire(far, told)):
                        break
        with self._lock:
            self._sockets -= {near, far}

    def _take(self, words: list[bytes], near: socket.socket, wire: "Wire") -> bool:
        act = self._act_for(words) or passed_on
        return act(Exchange(near, lambda: wire.ask(words), self._over))

    def _act_for(self, words: list[bytes]) -> Act | None:
        with self._lock:
            fault = self._fault
            if fault is None or kind_of(words) not in fault.at:
                return None
            self._met += 1
            strikes = self._met > fault.skip and (fault.times is None or self._met <= fault.skip + fault.times)
            return fault.act if strikes else None


@dataclass(frozen=True)
class Wire:
    """The connection to the server."""

    socket: socket.socket
    file: BinaryIO

    def ask(self, words: list[bytes]) -> bytes:
        """The server's reply to a command."""
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(b"*%d\r\n%s" % (len(words), parts))
        return read_reply(self.file)


def read_command(file: BinaryIO) -> list[bytes]:
    """The words of the next command; none where the client has gone."""
    line = file.readline()
    if not line.endswith(b"\r\n"):
        return []
    return [_read_bulk(file, file.readline()) for _ in range(int(line[1:]))]


def read_reply(file: BinaryIO) -> bytes:
    """The next reply, whole, as it came."""
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server has gone")
    if line[:1] == b"$" and line != b"$-1\r\n":
        return line + _read_bulk(file, line) + b"\r\n"
    if line[:1] == b"*":
        return line + b"".join(read_reply(file) for _ in range(int(line[1:])))
    return line


def _read_bulk(file: BinaryIO, line: bytes) -> bytes:
    found = file.read(int(line[1:]) + 2)
    if not found.endswith(b"\r\n"):
        raise ConnectionError("it broke off")
    return found[:-2]


def kind_of(words: list[bytes]) -> str:
    """What a command is to the store: a load, or which script it runs; "other" for the greeting of a connection."""
    name = words[0].upper()
    if name in (b"GET", b"MGET", b"TIME"):
        return "load"
    if name == b"EVALSHA":
        return _KINDS.get(words[1], "other")
    if name == b"EVAL":
        return _KINDS.get(sha1(words[1], usedforsecurity=False).hexdigest().encode(), "other")
    return "other"


# Acts.


def passed_on(exchange: Exchange) -> bool:
    """Nothing goes wrong."""
    exchange.near.sendall(exchange.ask())
    return True


def says(reply: str) -> Act:
    """The server is not asked; the client gets this line."""

    def act(exchange: Exchange) -> bool:
        exchange.near.sendall(reply.encode() + b"\r\n")
        return True

    return act


def hangs(exchange: Exchange) -> bool:
    """The server is not asked, and nothing ever comes."""
    exchange.wait_for_the_client()
    return False


def hangs_after(exchange: Exchange) -> bool:
    """The server does as it is told, and nothing ever comes."""
    exchange.ask()
    return hangs(exchange)


def resets(exchange: Exchange) -> bool:
    """The server is not asked; the connection is reset."""
    exchange.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    return False


def resets_after(exchange: Exchange) -> bool:
    """The server does as it is told; then the connection is reset."""
    exchange.ask()
    return resets(exchange)


def breaks_off(exchange: Exchange) -> bool:
    """Half of the answer comes, and the connection ends."""
    reply = exchange.ask()
    exchange.near.sendall(reply[: len(reply) // 2])
    return False


def stops_halfway(exchange: Exchange) -> bool:
    """Half of the answer comes, and no more."""
    reply = exchange.ask()
    exchange.near.sendall(reply[: len(reply) // 2])
    return hangs(exchange)


def late(seconds: float) -> Act:
    """The answer comes so many seconds late."""

    def act(exchange: Exchange) -> bool:
        reply = exchange.ask()
        exchange.over.wait(seconds)
        exchange.near.sendall(reply)
        return True

    return act


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """A proxy that ends with the block."""
    with closing(Proxy(port)) as made:
        yield made
