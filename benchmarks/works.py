"""The works: what every contestant does, and how much of it one run is."""

from dataclasses import dataclass
from enum import StrEnum


class Work(StrEnum):
    """Each is named for what a login service asks for."""

    FIRST_LOGIN = "first_login"
    REPEAT_LOGIN = "repeat_login"
    STATUS_READ = "status_read"
    CHANGE_OF_STATE = "change_of_state"
    LIFECYCLE = "lifecycle"
    CROWD = "crowd"
    MANY = "many"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much one run of a work is: so many patients, and so many clients at once that share them.

    `rounds` is how often each contestant runs it. `session_seconds` is what the upstream takes to create a session.
    """

    work: Work
    text: str
    patients: int
    repeats: int = 1
    clients: int = 1
    rounds: int
    session_seconds: float = 0.0
    #: What ours may take, as a multiple of the floor; None where nothing is promised.
    budget: float | None = None

    @property
    def operations(self) -> int:
        """By what the time of a run is divided."""
        return self.patients * self.repeats

    @property
    def is_concurrent(self) -> bool:
        """Whether clients do it at once: then a contestant uses the workers that it has in production."""
        return self.clients > 1


LOADS = (
    Load(
        work=Work.FIRST_LOGIN,
        text="first login: session, claim and kick-off of a patient never seen, until its acceptance is recorded",
        patients=40,
        rounds=15,
        budget=1.5,
    ),
    Load(
        work=Work.REPEAT_LOGIN, text="login of a patient who is fresh", patients=10, repeats=20, rounds=15, budget=1.15
    ),
    Load(
        work=Work.STATUS_READ,
        text="status of a patient who is settled",
        patients=10,
        repeats=20,
        rounds=15,
        budget=1.15,
    ),
    Load(
        work=Work.CHANGE_OF_STATE,
        text="one event that changes the record: a logout",
        patients=100,
        rounds=15,
        budget=1.25,
    ),
    Load(
        work=Work.LIFECYCLE,
        text="whole lifecycle: first login, then the poll that completes it",
        patients=40,
        rounds=15,
        budget=1.5,
    ),
    Load(
        work=Work.CROWD,
        text="20 clients log one new patient in at once, and read the status until it is under way",
        patients=1,
        clients=20,
        rounds=5,
        session_seconds=0.02,
    ),
    Load(
        work=Work.MANY,
        text="2,000 new patients are logged in by 16 clients",
        patients=2000,
        clients=16,
        rounds=3,
        budget=1.7,
    ),
)


def reduced(load: Load) -> Load:
    """The same work, as little of it as shows that it works."""
    return Load(
        work=load.work,
        text=load.text,
        patients=min(load.patients, 8),
        clients=min(load.clients, 4),
        rounds=2,
        session_seconds=load.session_seconds,
        budget=load.budget,
    )
