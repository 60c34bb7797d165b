"""The upstream that is driven in production: the MHV API, the PHR manager and the FHIR server behind them.

>>> from phr_refresh.mhv import MhvSettings, MhvUpstream
>>> upstream = MhvUpstream(MhvSettings.from_env())  # doctest: +SKIP

A guard stands before it, by the settings: so many calls at once, and none while the upstream is in trouble.
`GuardedUpstream` puts the same one before an upstream of your own.
"""

from phr_refresh.adapters.upstream.guard import GuardedUpstream
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings, StatusDialect

__all__ = ["GuardedUpstream", "MhvSettings", "MhvUpstream", "StatusDialect"]
