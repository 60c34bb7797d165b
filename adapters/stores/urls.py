"""The URLs that name a store. Nothing here shows a URL, or any part of one that may hold a password."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from ...statemachine.errors import ConfigurationError
from .keys import DEFAULT_PREFIX

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_KNOWN: Final = "use memory://, sqlite:///<file>, redis://<host>, rediss://<host> or redis+unix:///<socket>"
#: What redis-py calls our schemes.
_CLIENT_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "redis+unix": "unix"}
_DEFAULT_PORT: Final = 6379
_HIGHEST_PORT: Final = 65535

#: How a client of ours connects, where the URL says nothing else. A store that hangs must not hang a login: one second
#: is long for Redis. RESP2 saves a round trip for each new connection and is all that the scripts' replies need.
CONNECTION_DEFAULTS: Final[dict[str, Any]] = {
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
    "client_name": "phr-refresh",
    "protocol": 2,
}


def _is_count(text: str) -> bool:
    return text.isdecimal()


def _is_duration(text: str) -> bool:
    return bool(re.fullmatch(r"\d*\.?\d+", text)) and float(text) > 0


# Options of the URL. Not those of redis-py that would undo a promise: decode_responses, retry_on_timeout.
_OPTIONS: Final[dict[str, Callable[[str], bool]]] = {
    "prefix": bool,
    "db": _is_count,
    "username": bool,
    "password": bool,
    "socket_timeout": _is_duration,
    "socket_connect_timeout": _is_duration,
    "socket_keepalive": bool,
    "health_check_interval": _is_count,
    "max_connections": _is_count,
    "client_name": bool,
    "protocol": ("2", "3").__contains__,
}
_TLS_OPTIONS: Final[dict[str, Callable[[str], bool]]] = {
    "ssl_ca_certs": bool,
    "ssl_ca_path": bool,
    "ssl_certfile": bool,
    "ssl_keyfile": bool,
    "ssl_cert_reqs": ("none", "optional", "required").__contains__,
    "ssl_check_hostname": bool,
}


def scheme_of(url: str) -> str:
    """Which kind of store `url` names. Raises `ConfigurationError`, as everything here does, if it names none."""
    if not isinstance(url, str) or not url.strip():
        raise _malformed("it is empty or no text", _KNOWN)
    found = _SCHEME.match(url)
    if not found:
        raise _malformed("it has no scheme", _KNOWN)
    scheme = found[1].lower()
    if scheme not in ("memory", "sqlite", *_CLIENT_SCHEMES):
        raise _malformed(f"its scheme {scheme} is not known", _KNOWN)
    return scheme


def check_memory(url: str) -> None:
    """Raises if anything follows `memory://`: it would be taken for a name that processes share."""
    if url.partition("://")[2]:
        raise _malformed(
            "memory:// takes nothing after it", "each memory store is its own; for a shared one use a file"
        )


def sqlite_path(url: str) -> str:
    """The file that `sqlite:///relative` or `sqlite:////absolute` names. "%" escapes are decoded."""
    parts = _split(url)
    if parts.netloc or not parts.path.strip("/"):
        raise _malformed(
            "it names no file", "write sqlite:///relative/file.db or, with a fourth slash, sqlite:////absolute/file.db"
        )
    if parts.query:
        raise _malformed("an SQLite URL takes no options", 'remove them, or write "?" in a file name as %3F')
    if parts.path == "/:memory:":
        raise _malformed("SQLite in memory is not shared between threads", "use memory://")
    return unquote(parts.path[1:])


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A server: `name` for errors, `client_url` for redis-py. Only the latter, which `repr` omits, has credentials."""

    name: str
    prefix: str
    client_url: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisTarget":
        """The server that a redis://, rediss:// or redis+unix:// URL names."""
        scheme = scheme_of(url)
        if scheme not in _CLIENT_SCHEMES:
            raise _malformed(
                "it names no Redis server", "use redis://<host>, rediss://<host> or redis+unix:///<socket>"
            )
        parts = _split(url)
        place = _socket_place(parts) if scheme == "redis+unix" else _host_place(parts)
        options = _options(parts, scheme)
        prefix = options.pop("prefix", DEFAULT_PREFIX)
        query = f"?{urlencode(options)}" if options else ""
        client_url = f"{_CLIENT_SCHEMES[scheme]}://{parts.netloc}{parts.path}{query}"
        return cls(f"{scheme}://{place}", prefix, client_url)


def unusable_options() -> ConfigurationError:
    """What to raise if redis-py does not take the URL after all."""
    return _malformed("redis-py does not accept its options", "check the part after the question mark")


def _malformed(problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("store URL", problem, remedy)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        # The message would quote a part of the URL.
        raise _malformed("it is malformed", 'percent-encode special characters, such as "[" in a password') from None
    if parts.fragment or url.endswith("#"):
        raise _malformed('it has a "#"', "write it as %23")
    return parts


def _host_place(parts: SplitResult) -> str:
    try:
        port = parts.port
    except ValueError:
        port = _HIGHEST_PORT + 1
    if port is not None and not 0 < port <= _HIGHEST_PORT:
        raise _malformed(
            f"its port is no number from 1 to {_HIGHEST_PORT}",
            "correct it; if the password has special characters, percent-encode them",
        )
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise _malformed("its path is no database number", "write redis://<host>:<port>/<number>")
    host = parts.hostname or "localhost"
    return f"{f'[{host}]' if ':' in host else host}:{port or _DEFAULT_PORT}"


def _socket_place(parts: SplitResult) -> str:
    if parts.hostname or not parts.path.strip("/"):
        raise _malformed("it names no socket", "write redis+unix:///path/to/redis.sock, with three slashes")
    return unquote(parts.path)


def _options(parts: SplitResult, scheme: str) -> dict[str, str]:
    known = _OPTIONS | (_TLS_OPTIONS if scheme == "rediss" else {})
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in known:
            # Not named: it may be the rest of a password with a question mark in it.
            raise _malformed("it has an option that is not known", f"use {', '.join(known)}")
        if not known[name](value):
            raise _malformed(f"the value of its option {name} is not valid", "correct or remove it")
    return options
