"""The URLs that name a store. Nothing here shows a URL, or any part of one that may hold a password."""

import re
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from ...statemachine.errors import ConfigurationError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_KNOWN: Final = (
    "use memory://, sqlite:///<file>, redis://<host>, rediss://<host>, redis+unix:///<socket>, redis+cluster://<hosts> "
    "or redis+sentinel://<hosts>/<service>"
)
#: What redis-py calls our schemes.
REDIS_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "redis+unix": "unix",
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "redis+sentinel": "redis",
    "rediss+sentinel": "rediss",
}


def scheme_of(url: str) -> str:
    """Which kind of store `url` names. Raises `ConfigurationError`, as everything here does, if it names none."""
    if not isinstance(url, str) or not url.strip():
        raise malformed("it is empty or no text", _KNOWN)
    found = _SCHEME.match(url)
    if not found:
        raise malformed("it has no scheme", _KNOWN)
    scheme = found[1].lower()
    if scheme not in ("memory", "sqlite", *REDIS_SCHEMES):
        raise malformed(f"its scheme {scheme} is not known", _KNOWN)
    return scheme


def check_memory(url: str) -> None:
    """Raises if anything follows `memory://`: it would be taken for a name that processes share."""
    if url.partition("://")[2]:
        raise malformed("memory:// takes nothing after it", "each memory store is its own; for a shared one use a file")


def sqlite_path(url: str) -> str:
    """The file that `sqlite:///relative` or `sqlite:////absolute` names. "%" escapes are decoded."""
    parts = split(url)
    if parts.netloc or not parts.path.strip("/"):
        raise malformed(
            "it names no file", "write sqlite:///relative/file.db or, with a fourth slash, sqlite:////absolute/file.db"
        )
    if parts.query:
        raise malformed("an SQLite URL takes no options", 'remove them, or write "?" in a file name as %3F')
    if parts.path == "/:memory:":
        raise malformed("SQLite in memory is not shared between threads", "use memory://")
    return unquote(parts.path[1:])


def malformed(problem: str, remedy: str) -> ConfigurationError:
    """What to raise for a URL that is not right. Neither text may quote it."""
    return ConfigurationError("store URL", problem, remedy)


def split(url: str) -> SplitResult:
    """The parts of `url`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # The message would quote a part of the URL.
        raise malformed("it is malformed", 'percent-encode special characters, such as "[" in a password') from None
    if parts.fragment or url.endswith("#"):
        raise malformed('it has a "#"', "write it as %23")
    return parts
