"""The place where contestants meet: one server, one upstream that counts, one payload."""

import threading
import time
from dataclasses import dataclass, field
from typing import Final

#: What an upstream's session token is about as long as.
JWT: Final = "eyJhbGciOiJub25lIn0." + "c3ludGhldGlj" * 50 + "."
SESSION_SECONDS: Final = 900
WINDOW_SECONDS: Final = 3600
EXTRACTS: Final = ("Allergy", "ImagingStudy", "VPR", "ChemistryHematology")


@dataclass(slots=True)
class Upstream:
    """Answers at once, or after `session_seconds` where a session is asked for; counts its calls. Thread-safe."""

    session_seconds: float = 0.0
    sessions: int = 0
    kick_offs: int = 0
    polls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def open_session(self) -> str:
        """A session token."""
        with self._lock:
            self.sessions += 1
        if self.session_seconds:
            time.sleep(self.session_seconds)
        return JWT

    def start_refresh(self) -> None:
        """Accepts the kick-off."""
        with self._lock:
            self.kick_offs += 1

    def ask_status(self) -> bool:
        """Whether the refresh has ended: it always has."""
        with self._lock:
            self.polls += 1
        return True

    @property
    def calls(self) -> tuple[int, int, int]:
        """Sessions, kick-offs and status calls so far."""
        return self.sessions, self.kick_offs, self.polls


@dataclass(frozen=True, slots=True)
class Place:
    """What a contestant is opened with. `folder` is for those that bring files instead of using the server.

    `is_concurrent` tells whether clients come at once: then steps are run by the workers that production has.
    """

    url: str
    folder: str
    upstream: Upstream
    is_concurrent: bool = False
