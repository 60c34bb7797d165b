"""phr-refresh: refresh a patient's health record at login, once per window, as an explicit state machine.

>>> from phr_refresh import Policy
>>> Policy().refresh_window
datetime.timedelta(seconds=3600)
"""

from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.statemachine.effects import Fact, SessionToken
from phr_refresh.statemachine.errors import (
    CallerError,
    ConfigurationError,
    EventRefused,
    InvalidPatient,
    MissingExtra,
    NotEligible,
    PhrRefreshError,
    RecordUnreadable,
    SessionUnavailable,
    StoreError,
    StoreUnavailable,
    UnknownPatient,
    UpstreamError,
)
from phr_refresh.statemachine.outcomes import (
    Explanation,
    ExtractStatus,
    FailureStatus,
    PossibleEvent,
    Receipt,
    ReceiptKind,
    Status,
    SweepReport,
)
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.record import ExtractState, State

from .asynchronous import AsyncPhrRefresh
from .synchronous import PhrRefresh

__all__ = [
    "AsyncPhrRefresh",
    "CallerError",
    "ConfigurationError",
    "EventRefused",
    "Explanation",
    "ExtractState",
    "ExtractStatus",
    "Fact",
    "FailureStatus",
    "InvalidPatient",
    "MissingExtra",
    "NotEligible",
    "Patient",
    "PhrRefresh",
    "PhrRefreshError",
    "Policy",
    "PossibleEvent",
    "Receipt",
    "ReceiptKind",
    "RecordUnreadable",
    "SessionToken",
    "SessionUnavailable",
    "State",
    "Status",
    "StoreError",
    "StoreUnavailable",
    "SweepReport",
    "UnknownPatient",
    "UpstreamError",
    "open_async_store",
    "open_store",
]
