"""The floor: the bare redis-py calls that the work cannot do without, with our bytes; nothing is decided.

A read is a `GET`, a change is a `GET` and a `SET`; a first login is a `GET` and three `SET` (claim on the session,
session with the claim on the kick-off, acceptance), of which one carries the token along.
"""

import redis

from ..place import SESSION_SECONDS, WINDOW_SECONDS, Place
from ..record import PAYLOAD

_KEEP = WINDOW_SECONDS + 86_400


class Floor:
    """Bare calls, one connection per thread."""

    def __init__(self, place: Place) -> None:
        self._upstream = place.upstream
        self._redis = redis.Redis.from_url(place.url, protocol=2)

    def login(self, user: str) -> None:
        """One `GET`, and for somebody new the `SET`s of a first login."""
        if self._redis.get(f"floor:{user}") is not None:
            return
        # One of a crowd does the work: who that is costs the floor nothing.
        if not self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP, nx=True):
            return
        token = self._upstream.open_session()
        both = self._redis.pipeline(transaction=False)
        both.set(f"floor:{user}", PAYLOAD, ex=_KEEP)
        both.set(f"floor:token:{user}", token, ex=SESSION_SECONDS)
        both.execute()
        self._upstream.start_refresh()
        self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)

    def status(self, user: str) -> str:
        """One `GET`."""
        return "no_session" if self._redis.get(f"floor:{user}") is None else "complete"

    def finish(self, user: str) -> None:
        """One `GET`, and a `SET` before and after the call."""
        self._redis.get(f"floor:{user}")
        self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)
        self._upstream.ask_status()
        self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)

    def logout(self, user: str) -> None:
        """One `GET` and one `SET`."""
        self._redis.get(f"floor:{user}")
        self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def open_floor(place: Place) -> Floor:
    """The floor of threads."""
    return Floor(place)
