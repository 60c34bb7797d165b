"""celery-once and celery-singleton: the once-only part alone, which is a lock in Redis beside the job's message.

No worker runs: what is timed is the hand-over of the job, and how a second one is turned away while the first waits.
Both drop the lock when the job ends, so neither knows of a window.
"""

import celery_once.backends.redis
import celery_singleton.backends
from celery import Celery
from celery_once import AlreadyQueued, QueueOnce
from celery_singleton import Singleton

from ..place import WINDOW_SECONDS, Place


class Job:
    """What both have in common: nothing but the hand-over."""

    def status(self, user: str) -> str:
        """Not offered."""
        raise NotImplementedError

    def finish(self, user: str) -> None:
        """Not offered."""
        raise NotImplementedError

    def logout(self, user: str) -> None:
        """Not offered."""
        raise NotImplementedError


class Once(Job):
    """celery-once."""

    def __init__(self, place: Place) -> None:
        self._app = Celery("once", broker=place.url, set_as_current=False)
        settings = {"url": place.url, "default_timeout": WINDOW_SECONDS}
        self._app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": settings}
        self._refresh = self._app.task(base=QueueOnce, name="refresh", once={"keys": ["user"]})(_refresh)

    def login(self, user: str) -> None:
        """Hand the job over, unless it waits already."""
        try:
            self._refresh.apply_async(args=(user,))
        except AlreadyQueued:
            return

    def close(self) -> None:
        """Close the connections, and the one that the library keeps for the process, whatever server comes next."""
        self._app.close()
        celery_once.backends.redis.redis = None


class Single(Job):
    """celery-singleton."""

    def __init__(self, place: Place) -> None:
        self._app = Celery("singleton", broker=place.url, set_as_current=False)
        self._app.conf.singleton_backend_url = place.url
        options = {"unique_on": ["user"], "lock_expiry": WINDOW_SECONDS}
        self._refresh = self._app.task(base=Singleton, name="refresh", **options)(_refresh)

    def login(self, user: str) -> None:
        """Hand the job over, unless it waits already."""
        self._refresh.apply_async(args=(user,))

    def close(self) -> None:
        """See `Once.close`."""
        self._app.close()
        celery_singleton.backends._backend = None


def _refresh(user: str) -> None:
    """The job, which no worker ever runs here."""


def open_once(place: Place) -> Once:
    """celery-once."""
    return Once(place)


def open_singleton(place: Place) -> Single:
    """celery-singleton."""
    return Single(place)
