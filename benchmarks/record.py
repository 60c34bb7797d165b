"""What contestants store of a patient: the facts of a refresh in MessagePack, as many bytes as our record has."""

from dataclasses import astuple, dataclass
from typing import Final

from msgspec import msgpack
from phr_refresh.statemachine.codec import encode
from phr_refresh.statemachine.record import ExtractProgress, ExtractState, KickOff, RefreshRecord, State

from .place import EXTRACTS

_NOON: Final = 1_893_499_200_000


def settled_record(noon: int = _NOON) -> RefreshRecord:
    """Our record of a patient whose refresh was claimed at `noon`, and has completed."""
    return RefreshRecord(
        state=State.COMPLETE,
        since=noon + 5_000,
        session_expires_at=noon + 900_000,
        refresh_id="0123456789a",
        claimed_at=noon,
        kick_off=KickOff.ACCEPTED,
        answered_at=noon + 200,
        deadline_at=noon + 300_000,
        window_opens_at=noon + 3_600_200,
        next_poll_at=noon + 6_000,
        completed_at=noon + 5_000,
        as_of=noon + 4_900,
        extracts=tuple(ExtractProgress(name, ExtractState.CURRENT, noon + 4_900) for name in EXTRACTS),
        fingerprint="01234567",
    )


#: The payload of the floor, and the length of everybody's records; 8 characters of version stand before ours.
PAYLOAD: Final = b"01234567" + encode(settled_record())


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """The record that a contestant keeps; instants in seconds. Never longer than `PAYLOAD`."""

    state: str = "no_session"
    opening_until: float = 0.0
    session_expires_at: float = 0.0
    refresh_id: str = ""
    window_opens_at: float = 0.0
    accepted: bool = False
    as_of: float = 0.0

    def to_bytes(self) -> bytes:
        """Its stored form, filled up to the length of the payload."""
        plain = msgpack.encode((*astuple(self), b""))
        return msgpack.encode((*astuple(self), bytes(len(PAYLOAD) - len(plain))))


def from_bytes(stored: object) -> PlainRecord:
    """The record in `stored`, the reply to a `GET`; that of a patient never seen where there is none."""
    return PlainRecord(*msgpack.decode(stored)[:-1]) if isinstance(stored, bytes) else PlainRecord()
