"""The test kit for those who embed phr-refresh: time that tests move, an upstream by script, a store with faults.

With pytest and the extra `testing` its fixtures are there by themselves (`plugin`); docs/testing.md has an example.
What a script holds is here, too:

=================  =====================================================================================
a session          `SessionFailed`, `SessionOpened` with a `SessionToken`
a kick-off         `Accepted`, `Rejected`, `NeverSent`, `AnswerLost`
a status           `StatusReport` with a `Phase` and an `ExtractProgress` for each extract, or `CouldNotAsk`
a page of records  `Records`, `NotReady`, `RecordsFailed`
=================  =====================================================================================
"""

from phr_refresh.adapters.ports import NotReady, Records, RecordsFailed
from phr_refresh.statemachine.effects import (
    Accepted,
    AnswerLost,
    CouldNotAsk,
    NeverSent,
    Phase,
    Rejected,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StatusReport,
)
from phr_refresh.statemachine.record import ExtractProgress

from .clock import START, Clock, ClockedWorker
from .coverage import Coverage
from .rules import Rules
from .store import SteppableStore
from .upstream import ScriptedUpstream

__all__ = [
    "START",
    "Accepted",
    "AnswerLost",
    "Clock",
    "ClockedWorker",
    "CouldNotAsk",
    "Coverage",
    "ExtractProgress",
    "NeverSent",
    "NotReady",
    "Phase",
    "Records",
    "RecordsFailed",
    "Rejected",
    "Rules",
    "ScriptedUpstream",
    "SessionFailed",
    "SessionOpened",
    "SessionToken",
    "StatusReport",
    "SteppableStore",
]
