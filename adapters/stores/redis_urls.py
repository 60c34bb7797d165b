"""The URLs that name Redis: one server, a cluster, or a service that Sentinel watches.

::

    redis://[user:password@]host[:port][/db]                rediss:// with TLS
    redis+unix://[user:password@]/path/to/socket
    redis+cluster://[user:password@]host[:port][,host[:port]...]                    rediss+cluster:// with TLS
    redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/db]      rediss+sentinel:// with TLS

The hosts of a cluster are those to be asked first for all the others; those of Sentinel are the sentinels. The user is
the one of the servers; sentinels get `?sentinel_username=` and `sentinel_password=`. With TLS all of them speak it.
Special characters in a password are percent-encoded. Nothing here shows any part that may hold one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode

from ...statemachine.errors import ConfigurationError
from .keys import DEFAULT_PREFIX
from .urls import REDIS_SCHEMES, malformed, scheme_of, split

#: "host:port", a host of IPv6 in brackets.
Place = str

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_HIGHEST_PORT: Final = 65535
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:,@]*)(?::(\d+))?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")
_SECONDS: Final = 1.0
_PATIENCE: Final = 0.8

#: How a client of ours connects, where the URL says nothing else. A store that hangs must not hang a login: one second
#: is long for Redis. RESP2 saves a round trip for each new connection and is all that the scripts' replies need.
CONNECTION_DEFAULTS: Final[dict[str, Any]] = {
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "client_name": "phr-refresh",
    "protocol": 2,
}


def _is_duration(text: str) -> bool:
    return bool(re.fullmatch(r"\d*\.?\d+", text)) and float(text) > 0


_Options = dict[str, Callable[[str], bool]]
# Options of the URL. Not those of redis-py that would undo a promise: decode_responses, retry_on_timeout.
_OPTIONS: Final[_Options] = {
    **dict.fromkeys(("prefix", "username", "password", "client_name", "socket_keepalive"), bool),
    **dict.fromkeys(("db", "health_check_interval", "max_connections"), str.isdecimal),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _is_duration),
    "protocol": ("2", "3").__contains__,
}
_TLS_OPTIONS: Final[_Options] = {
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"), bool),
    "ssl_cert_reqs": ("none", "optional", "required").__contains__,
    "ssl_check_hostname": bool,
}
_SENTINEL_OPTIONS: Final[_Options] = {"sentinel_username": bool, "sentinel_password": bool}
_KINDS: Final[dict[str, Literal["cluster", "sentinel"]]] = {"cluster": "cluster", "sentinel": "sentinel"}
# What a sentinel is not told: it has users of its own, and no databases.
_NOT_FOR_SENTINELS: Final = ("username", "password", "db")


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """What a URL names. `name` stands for it in errors; `repr` shows no credentials, `client_url` holds them.

    `places` are servers, or sentinels; `service` is empty where there are none. `seconds`: how long an answer may take.
    `connections`: to each server, at most; 0 where the URL does not say.
    """

    name: str
    prefix: str
    kind: Literal["server", "cluster", "sentinel"]
    places: tuple[Place, ...]
    service: str
    seconds: float
    connections: int
    # What stands before a place, and what behind it.
    _around: tuple[str, str] = field(repr=False)
    _around_sentinel: tuple[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisTarget":
        """The target that `url` names. Raises `ConfigurationError`."""
        scheme = scheme_of(url)
        if scheme not in REDIS_SCHEMES:
            raise malformed("it names no Redis server", "use redis://<host>, rediss://<host> or redis+unix:///<socket>")
        parts = split(url)
        options = _options(parts, scheme)
        places, service, path = _places(parts, scheme)
        prefix = options.pop("prefix", DEFAULT_PREFIX)
        login, at, _ = parts.netloc.rpartition("@")
        sentinel_login = _login(options.pop("sentinel_username", ""), options.pop("sentinel_password", ""))
        to_sentinels = {name: text for name, text in options.items() if name not in _NOT_FOR_SENTINELS}
        shown = unquote(parts.path) if scheme == "redis+unix" else ",".join(places) + (f"/{service}" if service else "")
        return cls(
            name=f"{scheme}://{shown}",
            prefix=prefix,
            kind=_KINDS.get(scheme.partition("+")[2], "server"),
            places=places,
            service=service,
            seconds=float(options.get("socket_timeout", _SECONDS)),
            connections=int(options.get("max_connections", 0)),
            _around=(f"{REDIS_SCHEMES[scheme]}://{login}{at}", f"{path}{_query(options)}"),
            _around_sentinel=(f"{REDIS_SCHEMES[scheme]}://{sentinel_login}", _query(to_sentinels)),
        )

    @property
    def longest_wait(self) -> int:
        """Milliseconds that a server may take its time on purpose before the client takes it for hanging."""
        return int(self.seconds * 1000 * _PATIENCE)

    def client_url(self, place: Place) -> str:
        """What redis-py calls the server at `place`."""
        return place.join(self._around)

    def sentinel_url(self, place: Place) -> str:
        """What redis-py calls the sentinel at `place`."""
        return place.join(self._around_sentinel)


def unusable_options() -> ConfigurationError:
    """What to raise if redis-py does not take the URL after all."""
    return malformed("redis-py does not accept its options", "check the part after the question mark")


def place_of(host: str, port: object) -> Place:
    """The place of a host, whose address may be of IPv6, and a port."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def host_and_port(place: Place) -> tuple[str, int]:
    """The parts of `place`, as redis-py's clients want them."""
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


def _places(parts: SplitResult, scheme: str) -> tuple[tuple[Place, ...], str, str]:
    """Places, the service's name, and the path for redis-py."""
    path = parts.path.strip("/")
    if scheme == "redis+unix":
        if parts.hostname or not path:
            raise malformed("it names no socket", "write redis+unix:///path/to/redis.sock, with three slashes")
        return ("",), "", parts.path
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if len(hosts) > 1 and "+" not in scheme:
        raise malformed("it names several hosts", "use redis+cluster:// or redis+sentinel://")
    is_sentinel = scheme.endswith("+sentinel")
    places = tuple(_place(host, default_port=_SENTINEL_PORT if is_sentinel else _PORT) for host in hosts)
    if is_sentinel:
        service, slash, database = path.partition("/")
        if not _SERVICE.fullmatch(service) or (slash and not database.isdecimal()):
            wanted = "write redis+sentinel://<host>,<host>/<service> or .../<service>/<db>"
            raise malformed("it names no service", wanted)
        return places, service, f"/{database}" if slash else ""
    if path and scheme.endswith("+cluster"):
        raise malformed("a cluster has no databases", "remove the path after the hosts")
    if path and not path.isdecimal():
        raise malformed("its path is no database number", "write redis://<host>:<port>/<number>")
    return places, "", parts.path


def _place(text: str, *, default_port: int) -> Place:
    found = _PLACE.fullmatch(text)
    port = int(found[2] or default_port) if found else 0
    if not found or not 0 < port <= _HIGHEST_PORT:
        remedy = "correct it; if the password has special characters, percent-encode them"
        raise malformed(f"its port is no number from 1 to {_HIGHEST_PORT}", remedy)
    return f"{found[1].lower() or 'localhost'}:{port}"


def _options(parts: SplitResult, scheme: str) -> dict[str, str]:
    known = _OPTIONS | (_TLS_OPTIONS if scheme.startswith("rediss") else {})
    known |= _SENTINEL_OPTIONS if scheme.endswith("+sentinel") else {}
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in known or (name == "db" and scheme.endswith("+cluster")):
            # Not named: it may be the rest of a password with a question mark in it.
            raise malformed("it has an option that is not known", f"use {', '.join(known)}")
        if not known[name](value):
            raise malformed(f"the value of its option {name} is not valid", "correct or remove it")
    return options


def _login(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def _query(options: dict[str, str]) -> str:
    return f"?{urlencode(options)}" if options else ""
