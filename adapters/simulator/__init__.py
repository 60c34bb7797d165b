"""A real HTTP server that behaves as the upstream does, faults included.

It stands in for all three parts of the upstream (session, refresh, FHIR) under one base URL, for tests, demonstrations
and load runs. It needs the standard library only, keeps everything in memory, and is no place for real patients.
"""

from .calls import Call
from .extracts import EXTRACTS
from .faults import Endpoint, Fault, FaultKind
from .simulator import Simulator

__all__ = ["EXTRACTS", "Call", "Endpoint", "Fault", "FaultKind", "Simulator"]
