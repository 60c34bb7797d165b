"""Today's portal design, in Python: a session in Redis behind a `SET NX EX` lock, the kick-off hanging on its creation.

As the source document and the portal's settings have it: lock of 10 s with a constant value and a plain `DEL`, ten
tries of one second for who finds it taken, then on without a session; the session is cached for its life; every status
read is passed on upstream. There is no record: once per hour holds because a session lives for one, and no longer than
it does. A logout drops the session, and the next login kicks off again.
"""

import time

import redis

from ..place import SESSION_SECONDS, Place

_LOCK_SECONDS = 10
_TRIES = 10
_TRY_SECONDS = 1.0


class Portal:
    """The design of today, with one second between tries."""

    def __init__(self, place: Place) -> None:
        self._upstream = place.upstream
        self._redis = redis.Redis.from_url(place.url, protocol=2)

    def login(self, user: str) -> None:
        """A session, and with each new one a kick-off."""
        for _ in range(_TRIES):
            if self._redis.get(f"portal:session:{user}") is not None:
                return
            if self._redis.set(f"portal:lock:{user}", "1", nx=True, ex=_LOCK_SECONDS):
                try:
                    self._create(user)
                finally:
                    self._redis.delete(f"portal:lock:{user}")
                return
            time.sleep(_TRY_SECONDS)

    def _create(self, user: str) -> None:
        token = self._upstream.open_session()
        self._redis.set(f"portal:session:{user}", token, ex=SESSION_SECONDS)
        self._upstream.start_refresh()

    def status(self, user: str) -> str:
        """Asked upstream each time, with the cached session."""
        if self._redis.get(f"portal:session:{user}") is None:
            return "no_session"
        return "complete" if self._upstream.ask_status() else "refreshing"

    def finish(self, user: str) -> None:
        """The poll that finds it complete records nothing."""
        self.status(user)

    def logout(self, user: str) -> None:
        """The session is looked up and dropped."""
        if self._redis.get(f"portal:session:{user}") is not None:
            self._redis.delete(f"portal:session:{user}")

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def open_portal(place: Place) -> Portal:
    """Today's design."""
    return Portal(place)
