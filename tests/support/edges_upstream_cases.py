"""The table of what can go wrong with the upstream, and the certificates that a server can have."""

import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from phr_refresh.adapters.upstream.mhv import MhvUpstream

from .edges_acts import (
    bomb,
    drip,
    drip_body,
    flood,
    flood_in_chunks,
    garble,
    half,
    hang,
    hang_after,
    no_http,
    reset,
    reset_after,
    say,
)
from .edges_upstream import Act, Fronts

PLACES = ("session", "kick-off", "status")


# Certificates.


class Certificates:
    """A certificate authority, and servers with certificates of it or not. `bundle` is what a client trusts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("Synthetic authority")
        self._authority = self._signed(_Wish("authority", self._name), self._key.public_key())
        self.bundle = str(folder / "authority.pem")
        Path(self.bundle).write_bytes(self._authority.public_bytes(serialization.Encoding.PEM))
        self.good = self._server(_Wish("good"))
        self.bad = {
            "a self-signed certificate": self._server(_Wish("self", self_signed=True)),
            "an expired certificate": self._server(_Wish("expired", days=-1)),
            "the certificate of another host": self._server(_Wish("other", host="other.example")),
            "no TLS at all": None,
        }

    def _server(self, wish: "_Wish") -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(wish, key.public_key(), key if wish.self_signed else self._key)
        pem = self._folder / f"{wish.label}.pem"
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, *private) + signed.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context

    def _signed(
        self, wish: "_Wish", key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey | None = None
    ) -> x509.Certificate:
        name = wish.name or _named(wish.host or "127.0.0.1")
        is_authority = wish.name is not None
        host: x509.GeneralName = x509.DNSName(wish.host) if wish.host else x509.IPAddress(ip_address("127.0.0.1"))
        now = datetime.now(UTC)
        public_of_signer = (signer or self._key).public_key()
        return (
            x509.CertificateBuilder(name if wish.self_signed else self._name, name, key, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=wish.days))
            .add_extension(x509.SubjectAlternativeName([host]), critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            # From Python 3.13 on, certificates are checked for what RFC 5280 asks of them.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public_of_signer), critical=False)
            .add_extension(_key_usage(signs=is_authority), critical=True)
            .sign(signer or self._key, hashes.SHA256())
        )


@dataclass(frozen=True)
class _Wish:
    label: str
    name: x509.Name | None = None
    host: str = ""
    days: int = 1
    self_signed: bool = False


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    usages = dict.fromkeys((*others, "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **usages)


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])


# The table.


@dataclass(frozen=True)
class Scene:
    """What a case can lay hands on: servers, certificates, the address of a host that is none of ours, the adapter."""

    fronts: Fronts
    certificates: Certificates
    elsewhere: str
    upstream: MhvUpstream


Begin = Callable[[Scene], AbstractContextManager[Any]]


@dataclass(frozen=True)
class UpstreamCase:
    """One way to go wrong at `place`. `begin` makes it so for the length of a block, and so does each of `others`.

    `hurried`: what is waited for never comes, so the client's time-out is short. `secure`: the servers speak TLS.
    """

    place: str
    fault: str
    begin: Begin
    others: tuple[Begin, ...] = ()
    hurried: bool = False
    secure: bool = False


def _case(place: str, fault: str, *acts: Act, hurried: bool = False) -> UpstreamCase:
    first, *others = (_striking(place, act) for act in acts)
    return UpstreamCase(place, fault, first, tuple(others), hurried=hurried)


def _striking(place: str, act: Act) -> Begin:
    return lambda scene: scene.fronts.at(place).striking(place, act)


def _speaking(place: str, what: str) -> Begin:
    def begin(scene: Scene) -> AbstractContextManager[None]:
        return scene.fronts.at(place).speaking(scene.certificates.bad[what])

    return begin


def _redirecting(place: str, status: int) -> Begin:
    def begin(scene: Scene) -> AbstractContextManager[None]:
        return scene.fronts.at(place).striking(place, say(status, b"{}", Location=f"{scene.elsewhere}/taken"))

    return begin


def _away(place: str) -> Begin:
    return lambda scene: scene.fronts.at(place).away()


def _token(**claims: object) -> str:
    return "Bearer " + jwt.encode(claims, "k" * 32)


def _with(authorization: str) -> Act:
    return say(200, {}, x_amzn_remapped_authorization=authorization)


_REDIRECTS = (301, 302, 303, 307, 308)
_NO_OBJECTS = (b"\xff\x00garbage", b"<html>", b"", b"[" * 200_000, ["OK"], "OK", 7, None, True)
_WRONG_STATUS = ({"status": 7}, {"status": ["OK"]}, {"status": None}, {"status": {"OK": True}}, {})
_ROW = {"extract": "VPR", "lastRequested": 1, "lastCompleted": 2, "lastSuccessfulCompleted": 2, "loadStatus": "OK"}
_WRONG_ANSWERS = (
    {},
    {"retrievedDate": "now", "facilityExtractStatusList": [_ROW]},
    {"retrievedDate": True, "facilityExtractStatusList": []},
    {"retrievedDate": 1e300, "facilityExtractStatusList": []},
    {"retrievedDate": 1_900_000_000_000, "facilityExtractStatusList": {"0": _ROW}},
    {"retrievedDate": 1_900_000_000_000, "facilityExtractStatusList": None},
    *(
        {"retrievedDate": 1_900_000_000_000, "facilityExtractStatusList": [_ROW | {name: value}]}
        for name, value in (
            ("lastRequested", "2030-01-01"),
            ("lastRequested", -1),
            ("lastCompleted", [2]),
            ("lastCompleted", 1.5),
            ("lastSuccessfulCompleted", True),
            ("lastSuccessfulCompleted", 10**30),
            ("loadStatus", 1),
            ("loadStatus", {"OK": 1}),
        )
    ),
)
_WRONG_CLAIMS = (
    {"subjectId": ["4711"]},
    {"subjectId": True},
    {"subjectId": "x" * 300},
    {"subjectId": "4711", "exp": "soon"},
    {"subjectId": "4711", "exp": [1]},
    {"exp": 1},
)
_WRONG_TOKENS = ("Bearer", "Bearer x", "Basic abc", "Bearer " + "x" * 20_000, "Bearer a.b.c", "Bearer W10.W10.x")
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def _everywhere(place: str) -> tuple[UpstreamCase, ...]:
    """What can go wrong with any call."""
    return (
        UpstreamCase(place, "nobody listens", _away(place)),
        _case(place, "hangs", hang, hurried=True),
        _case(place, "does as told, then hangs", hang_after, hurried=True),
        _case(place, "resets the connection", reset),
        _case(place, "does as told, then resets the connection", reset_after),
        _case(place, "breaks off in the middle of its answer", half),
        _case(
            place,
            "drips: one byte at a time, for ever",
            drip(b"HTTP/1.1 2", b"0"),
            drip(_JSON_HEAD + b"X: ", b"x"),
            hurried=True,
        ),
        _case(place, "answers in another protocol", no_http),
        UpstreamCase(
            place,
            "redirects to another host",
            _redirecting(place, 302),
            tuple(_redirecting(place, status) for status in _REDIRECTS if status != 302),
        ),
        *(
            UpstreamCase(place, what, _speaking(place, what), secure=True)
            for what in (
                "a self-signed certificate",
                "an expired certificate",
                "the certificate of another host",
                "no TLS at all",
            )
        ),
        _case(place, "401", say(401, {"error": "no"})),
        _case(place, "500", say(500, {"error": "no"})),
        _case(place, "503, Retry-After", say(503, Retry_After="7"), say(503, Retry_After="soon")),
        _case(place, "504", say(504)),
    )


CASES = (
    *_everywhere("session"),
    _case("session", "a body that is no JSON object", *map(garble, _NO_OBJECTS)),
    _case("session", "a body of 100 MB", flood, flood_in_chunks, bomb),
    _case("session", "a body that drips", drip_body, hurried=True),
    _case("session", "no token, or one that is none", say(200, {}), *(_with(text) for text in _WRONG_TOKENS)),
    _case("session", "a token whose claims have wrong types", *(_with(_token(**claims)) for claims in _WRONG_CLAIMS)),
    _case("session", "a token that is over", _with(_token(subjectId="4711", exp=1))),
    *_everywhere("kick-off"),
    _case("kick-off", "a body that is no JSON object", *map(garble, _NO_OBJECTS)),
    _case("kick-off", "wrong types in the JSON object", *map(garble, _WRONG_STATUS)),
    _case("kick-off", "a body of 100 MB", flood, flood_in_chunks, bomb),
    _case("kick-off", "a body that drips", drip_body, hurried=True),
    *_everywhere("status"),
    _case("status", "a body that is no JSON object", *map(garble, _NO_OBJECTS)),
    _case("status", "wrong types in the JSON object", *map(garble, _WRONG_ANSWERS)),
    _case("status", "a body of 100 MB", flood, flood_in_chunks, bomb),
    _case("status", "a body that drips", drip_body, hurried=True),
)
