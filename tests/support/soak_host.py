"""What all processes of the soak share: the people, the settings block with its recorded store, the Celery app.

Its window is 20 seconds in place of 60 minutes, so that many pass. Everything that follows from it is shorter in
proportion, or at least longer than what it must outlast (`policy`, `upstream`); nothing else differs from production.
"""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from celery import Celery
from phr_refresh import Patient, open_store
from phr_refresh.celery import Delivery, setup
from phr_refresh.embedding import Embedding
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.effects import Load
from phr_refresh.statemachine.record import RefreshRecord
from phr_refresh.testing.history import HistoryFile, RecordedStore

WINDOW_SECONDS = 20
#: What a refresh may take, kills included.
DEADLINE_SECONDS = 12
#: A message of a dead worker comes back after this.
VISIBILITY_SECONDS = 5
SESSION_SECONDS = 45

POLICY = {
    "refresh_window": WINDOW_SECONDS,
    "refresh_deadline": DEADLINE_SECONDS,
    "unanswered_margin": 8,
    "login_budget": 0.25,
    "poll_interval": 0.5,
    "poll_schedule": (),
    "poll_interval_max": 1.5,
    "late_poll_interval": 1,
    "session_claim": 5,
    "session_wait": 9,
    "retry_backoff": 0.5,
    "retry_backoff_max": 4,
    "decision_age": 1,
}
_TRANSPORT = {
    "visibility_timeout": VISIBILITY_SECONDS,
    "unacked_restore_interval": 0.5,
    "unacked_restore_throttle": 1,
    # A worker that is killed while it gives messages back holds this lock; by default nobody else could for 5 minutes.
    "unacked_mutex_expire": 3,
}


@dataclass(frozen=True)
class SoakHost:
    """One soak: where everything is. Goes to other processes by way of their environment."""

    store: str
    broker: str
    upstream: str
    app_token: str
    authorization_key: str
    folder: str
    patients: int
    seed: int

    @classmethod
    def from_env(cls) -> Self:
        """What `environ` put there."""
        return cls(**json.loads(os.environ["SOAK"]))

    def environ(self) -> dict[str, str]:
        """The environment for a process that takes part."""
        return os.environ | {"SOAK": json.dumps(asdict(self)), "PYTHONWARNINGS": "ignore"}

    @property
    def history(self) -> Path:
        """What was asked of the store, by all."""
        return Path(self.folder) / "history.jsonl"

    @property
    def receipts(self) -> Path:
        """What callers were told."""
        return Path(self.folder) / "receipts.jsonl"

    def people(self) -> list[Patient]:
        """Everybody."""
        found = [by_id(f"user-{number}") for number in range(self.patients)]
        return [patient for patient in found if patient is not None]

    def block(self) -> dict[str, Any]:
        """The settings block of logins and workers."""
        upstream = {
            "base_url": self.upstream,
            "app_token": self.app_token,
            "authorization_key": self.authorization_key,
            "connect_timeout": timedelta(seconds=0.5),
            "read_timeout": timedelta(seconds=2),
            "throttle_grace": timedelta(seconds=1),
        }
        return {"patient_of": by_id, "store": self.open_store, "upstream": upstream, "policy": POLICY}

    def open_store(self) -> RecordedStore:
        """The store, with all that is asked of it noted."""
        key = b"of the soak"
        return RecordedStore(open_store(self.store), HistoryFile(self.history), pseudonym_key=key, announces=True)

    def app(self) -> Celery:
        """The Celery app."""
        app = Celery("soak", broker=self.broker, set_as_current=False)
        app.conf.broker_transport_options = _TRANSPORT
        app.conf.broker_connection_retry_on_startup = True
        app.conf.broker_connection_max_retries = None
        delivery = Delivery(expires=timedelta(seconds=WINDOW_SECONDS - 5), sweep_every=None)
        setup(app, self.block, directory=by_id, delivery=delivery)
        return app

    def embedding(self, **changes: Any) -> Embedding:
        """The settings block, read."""
        return Embedding.of({**self.block(), **changes})

    def records(self) -> Mapping[str, RefreshRecord]:
        """Everybody's record as it lies in the store, by user id."""
        with closing(open_store(f"{self.store}?socket_timeout=30")) as store:
            rows = {patient.user_id: store.call(Load(patient.key)).value for patient in self.people()}
        return {user: RefreshRecord() if value is None else decode(value) for user, value in rows.items()}


def by_id(user: str) -> Patient | None:
    """The host's directory."""
    number = int(user.rpartition("-")[2])
    return Patient(user, f"{1_000_000_000 + number:010}V{number:06}", f"corr-{number}")
