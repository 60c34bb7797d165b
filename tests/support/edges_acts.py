"""What a front does to a call. Acts that pass it on let it take effect before its answer goes wrong."""

import gzip
import json
import socket
import struct
import zlib
from functools import cache
from typing import Final

from .edges_upstream import Act, Call, head, kept
from .values import replace

FLOOD_BYTES: Final = 100 * 1024 * 1024
_BLOCK: Final = b" " * 65_536


def hang(call: Call) -> None:
    """The call takes no effect, and nothing ever comes."""
    call.wait_for_the_client()


def hang_after(call: Call) -> None:
    """The call takes effect, and nothing ever comes."""
    call.pass_on()
    call.wait_for_the_client()


def reset(call: Call) -> None:
    """The call takes no effect; the connection is reset."""
    call.hang_up()
    connection = call.handler.connection
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Detached: an orderly end of the handler would say goodbye first.
    socket.close(connection.detach())


def reset_after(call: Call) -> None:
    """The call takes effect; the connection is reset."""
    call.pass_on()
    reset(call)


def half(call: Call) -> None:
    """The call takes effect; its answer breaks off in the middle of the headers."""
    call.pass_on()
    call.write(b"HTTP/1.1 200 OK\r\nContent-Type: applic")
    call.hang_up()


def drip(start: bytes, byte: bytes) -> Act:
    """The call takes effect; after `start` the answer comes as one byte at a time, and never ends."""

    def act(call: Call) -> None:
        call.pass_on()
        call.hang_up()
        call.write(start)
        while not call.over.wait(0.02):
            call.write(byte)

    return act


def drip_body(call: Call) -> None:
    """The call takes effect; status and headers are as they should be, the body comes byte by byte, and never ends."""
    reply = call.pass_on()
    drip(head(200, {**kept(reply), "Content-Length": "999999"}), b" ")(replace(call, pass_on=lambda: reply))


def say(status: int, body: object = b"", **headers: str) -> Act:
    """The call takes no effect; this is the answer. Underscores in names of headers are hyphens."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda call: call.answer(status, text, {name.replace("_", "-"): value for name, value in headers.items()})


def garble(body: object) -> Act:
    """The call takes effect; status and headers are as they should be, the body is this."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()

    def act(call: Call) -> None:
        reply = call.pass_on()
        call.answer(reply.status, text, kept(reply))

    return act


def no_http(call: Call) -> None:
    """The call takes effect; what answers speaks another protocol."""
    call.pass_on()
    call.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    call.hang_up()


def flood(call: Call) -> None:
    """The call takes effect; the answer has its headers, and a body of 100 MB."""
    reply = call.pass_on()
    call.hang_up()
    call.write(head(200, {**kept(reply), "Content-Length": str(FLOOD_BYTES)}))
    while call.sent < FLOOD_BYTES:
        call.write(_BLOCK)
        call.sent += len(_BLOCK)


def flood_in_chunks(call: Call) -> None:
    """The same, of a length that is not told."""
    reply = call.pass_on()
    call.hang_up()
    call.write(head(200, {**kept(reply), "Transfer-Encoding": "chunked"}))
    while call.sent < FLOOD_BYTES:
        call.write(b"%x\r\n%s\r\n" % (len(_BLOCK), _BLOCK))
        call.sent += len(_BLOCK)


def bomb(call: Call) -> None:
    """The same, compressed, and compressed again: a few hundred bytes."""
    reply = call.pass_on()
    call.answer(200, _bomb(), {**kept(reply), "Content-Encoding": "gzip, gzip"})
    call.sent += len(_bomb())


@cache
def _bomb() -> bytes:
    squeezed = zlib.compressobj(wbits=31)
    once = b"".join(squeezed.compress(_BLOCK) for _ in range(FLOOD_BYTES // len(_BLOCK))) + squeezed.flush()
    return gzip.compress(once)
