"""Refreshes `ada` and kills itself with SIGKILL at the moment that its argument names."""

import os
import signal
import sys

from phr_refresh import Patient, PhrRefresh, open_store
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import OpenSession, StartRefresh


class DyingUpstream(MhvUpstream):
    """Dies in the middle of a call."""

    def call(self, request):
        """Makes the call, unless this is the moment to die; or dies with the kick-off's answer in hand."""
        if isinstance(request, OpenSession):
            die_at("before the session call")
        if not isinstance(request, StartRefresh):
            return super().call(request)
        die_at("before the kick-off")
        answer = super().call(request)
        die_at("after the kick-off")
        return answer


def die_at(moment):
    """Die if this is the moment."""
    if sys.argv[1] == moment:
        os.kill(os.getpid(), signal.SIGKILL)


phr = PhrRefresh(
    store=open_store(os.environ["PHR_REFRESH_STORE"]),
    upstream=DyingUpstream(MhvSettings.from_env()),
    worker=InlineWorker(),
)
phr.refresh(Patient("ada", "1012345678V123456", "12345"))
