"""A real HTTP server that behaves as the upstream does, faults included: for tests, demonstrations and load runs.

>>> from phr_refresh.simulator import Fault, Simulator
>>> with Simulator(speed=50) as upstream:
...     upstream.script(Fault("refresh", "lost_answer", times=1))

It keeps everything in memory, needs no extra, and is no place for real patients.
"""

from phr_refresh.adapters.simulator import EXTRACTS, Call, Endpoint, Fault, FaultKind, Simulator

__all__ = ["EXTRACTS", "Call", "Endpoint", "Fault", "FaultKind", "Simulator"]
