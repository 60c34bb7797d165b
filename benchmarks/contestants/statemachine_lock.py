"""python-statemachine, its model changed under a `Lock` of redis-py.

Everything of a login happens while the lock is held, the outside calls included: that is how a lock is used. Not given:
the store's clock, and what happens when the lock expires under its holder.
"""

import time
from dataclasses import asdict, dataclass
from uuid import uuid4

import redis
from redis.lock import Lock

from statemachine import State, StateMachine

from ..place import SESSION_SECONDS, WINDOW_SECONDS, Place
from ..record import PlainRecord, from_bytes

_KEEP = WINDOW_SECONDS + 86_400
_LOCK_SECONDS = 40
_WAIT_SECONDS = 60


@dataclass
class Model:
    """What the machine moves: a record that can be changed."""

    state: str
    opening_until: float
    session_expires_at: float
    refresh_id: str
    window_opens_at: float
    accepted: bool
    as_of: float


class PatientRefresh(StateMachine):  # type: ignore[misc]  # it is read as untyped: its name is that of a folder here
    """One patient's machine, for one login or one answer."""

    no_session = State(initial=True, value="no_session")
    session_created = State(value="session_created")
    refreshing = State(value="refreshing")
    complete = State(value="complete")
    stale = State(value="stale")

    open_session = no_session.to(session_created) | stale.to(session_created)
    claim_refresh = session_created.to(refreshing, cond="is_open") | stale.to(refreshing, cond="is_open")
    accept = refreshing.to.itself(internal=True)
    finish = refreshing.to(complete)
    fail = refreshing.to(stale)
    end_session = (
        session_created.to(no_session) | refreshing.to(no_session) | complete.to(no_session) | stale.to(no_session)
    )

    def is_open(self) -> bool:
        """Whether the window is."""
        return bool(time.time() >= self.model.window_opens_at)

    def on_claim_refresh(self) -> None:
        """A new refresh, and its window."""
        self.model.refresh_id = uuid4().hex[:11]
        self.model.window_opens_at = round(time.time() + WINDOW_SECONDS, 3)
        self.model.accepted = False

    def on_accept(self) -> None:
        """The kick-off was accepted."""
        self.model.accepted = True

    def on_finish(self) -> None:
        """The refresh has ended."""
        self.model.as_of = round(time.time(), 3)


class StateMachineLock:
    """One key and one lock per patient."""

    def __init__(self, place: Place) -> None:
        self._upstream = place.upstream
        self._redis = redis.Redis.from_url(place.url, protocol=2)

    def login(self, user: str) -> None:
        """Look without the lock; whoever has to start something takes it and looks again."""
        if self._load(user).state in ("refreshing", "complete"):
            return
        with self._lock(user):
            model = self._load(user)
            machine = PatientRefresh(model)
            if model.state in ("no_session", "stale"):
                token = self._upstream.open_session()
                machine.open_session()
                model.session_expires_at = round(time.time() + SESSION_SECONDS, 3)
                self._redis.set(f"locked:token:{user}", token, ex=SESSION_SECONDS)
            if model.state == "session_created" and machine.is_open():
                machine.claim_refresh()
                self._save(user, model)
                self._upstream.start_refresh()
                machine.accept()
            self._save(user, model)

    def status(self, user: str) -> str:
        """One `GET`."""
        return self._load(user).state

    def finish(self, user: str) -> None:
        """Ask, and record the end."""
        if self._upstream.ask_status():
            with self._lock(user):
                model = self._load(user)
                PatientRefresh(model).finish()
                self._save(user, model)

    def logout(self, user: str) -> None:
        """Drop the session; the window stays."""
        with self._lock(user):
            model = self._load(user)
            if model.state != "no_session":
                PatientRefresh(model).end_session()
            model.session_expires_at = 0.0
            both = self._redis.pipeline()
            both.set(f"locked:{user}", PlainRecord(**asdict(model)).to_bytes(), ex=_KEEP)
            both.delete(f"locked:token:{user}")
            both.execute()

    def _lock(self, user: str) -> Lock:
        return Lock(self._redis, f"locked:lock:{user}", timeout=_LOCK_SECONDS, blocking_timeout=_WAIT_SECONDS)

    def _load(self, user: str) -> Model:
        return Model(**asdict(from_bytes(self._redis.get(f"locked:{user}"))))

    def _save(self, user: str, model: Model) -> None:
        self._redis.set(f"locked:{user}", PlainRecord(**asdict(model)).to_bytes(), ex=_KEEP)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def open_statemachine(place: Place) -> StateMachineLock:
    """python-statemachine under a lock."""
    return StateMachineLock(place)
