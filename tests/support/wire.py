"""A TCP server with a script, for answers that no HTTP server would give."""

import json
import socket
import ssl
import struct
import threading
from datetime import UTC, datetime, timedelta


class Wire:
    """A TCP server with a script: one act per request, the last one for ever. `arrived` holds each request, whole."""

    def __init__(self, *acts, tls=None):
        self.acts, self.tls = acts, tls
        self.arrived = []
        self.over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self):
        while not self.over.is_set():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
            self.threads[-1].start()

    def _serve(self, sock):
        try:
            with sock if self.tls is None else self.tls.wrap_socket(sock, server_side=True) as talk:
                while request := self._request(talk):
                    self.arrived.append(request)
                    self.acts[min(len(self.arrived), len(self.acts)) - 1](self, talk)
        except OSError:
            return

    @staticmethod
    def _request(talk):
        got = b""
        while b"\r\n\r\n" not in got:
            part = talk.recv(65536)
            if not part:
                return b""
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        while len(body) < sum(map(int, lengths)):
            body += talk.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self):
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)


def answer(status, body=b"{}", **headers):
    """An act: answer completely, and keep the connection."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text)}", *(f"{k}: {v}" for k, v in headers.items())]
    head = "\r\n".join(line.replace("_", "-", 1) if i > 1 else line for i, line in enumerate(lines))
    return lambda wire, talk: talk.sendall(head.encode() + b"\r\n\r\n" + text)


def reset(wire, talk):
    """An act: the request was read; the connection is reset."""
    talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.close()


def hang_up(wire, talk):
    """An act: the request was read; the connection is closed in good order."""
    talk.shutdown(socket.SHUT_RDWR)


def black_hole(wire, talk):
    """An act: the request was read; nothing ever comes."""
    wire.over.wait(30)


def drip(head, byte=b" "):
    """An act: send `head`, then a byte now and then, each well within any socket's time-out."""

    def act(wire, talk):
        talk.sendall(head)
        while not wire.over.wait(0.03):
            talk.sendall(byte)

    return act


def flood(status):
    """An act: an answer of 100 MB."""

    def act(wire, talk):
        talk.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 104857600\r\n\r\n".encode())
        for _ in range(1600):
            talk.sendall(b" " * 65536)

    return act


def raw(text):
    """An act: send `text` and hang up."""

    def act(wire, talk):
        talk.sendall(text)
        talk.shutdown(socket.SHUT_RDWR)

    return act


def certificate(folder):
    """A self-signed certificate for 127.0.0.1 and its key, in one PEM file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *private) + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return str(pem), context
