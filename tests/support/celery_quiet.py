"""A settings block that imports nothing of Celery."""

from phr_refresh.testing import ScriptedUpstream

from .samples import everybody_is_ada

BLOCK = {"patient_of": everybody_is_ada, "store": "memory://", "upstream": ScriptedUpstream()}
