"""The test kit for those who embed phr-refresh: time that tests move, an upstream by script, a store with faults.

With pytest and the extra `testing` its fixtures are there by themselves (`plugin`); docs/testing.md has an example.
"""

from .clock import START, Clock, ClockedWorker
from .coverage import Coverage
from .rules import Rules
from .store import SteppableStore
from .upstream import ScriptedUpstream

__all__ = ["START", "Clock", "ClockedWorker", "Coverage", "Rules", "ScriptedUpstream", "SteppableStore"]
