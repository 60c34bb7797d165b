"""What an adapter for a host is made of: see docs/write-your-own-host.md.

A host gives the settings block (`Embedding`), who is logged in by its own session, a route for `Host`, and a call of
`Hooks` at each login and logout. `Service` is all of these, opened together for one process with threads.

Without a settings block a program makes its own `PhrRefresh`: observers, the seal and workers for it are here, too.
"""

from dataclasses import dataclass

from phr_refresh.adapters.browser import (
    AsyncHost,
    AsyncHttpStream,
    Contract,
    Host,
    HttpRequest,
    HttpResponse,
    HttpStream,
    is_public,
)
from phr_refresh.adapters.login_hooks.hooks import AsyncHooks, FindPatient, Hooks
from phr_refresh.adapters.logs import LogObserver, Observers
from phr_refresh.adapters.metrics import observer_named
from phr_refresh.adapters.session_creation.seal import FernetSeal
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.adapters.workers.threads import ThreadWorker

from .embedding import Embedding, PatientOf
from .synchronous import PhrRefresh

__all__ = [
    "AsyncHooks",
    "AsyncHost",
    "AsyncHttpStream",
    "Contract",
    "Embedding",
    "FernetSeal",
    "FindPatient",
    "Hooks",
    "Host",
    "HttpRequest",
    "HttpResponse",
    "HttpStream",
    "InlineWorker",
    "LogObserver",
    "Observers",
    "PatientOf",
    "Service",
    "ThreadWorker",
    "is_public",
    "observer_named",
]


@dataclass(frozen=True, slots=True)
class Service:
    """What a process with threads serves by one settings block. Connects to nothing before it is used. Thread-safe."""

    embedding: Embedding
    refresher: PhrRefresh
    hooks: Hooks
    host: Host
    #: For servers that have one request at a time in a process: who waits there would keep everybody else waiting.
    host_without_threads: Host

    @classmethod
    def of(cls, embedding: Embedding) -> "Service":
        """Opened by these settings. Raises `ConfigurationError`, `MissingExtra`."""
        refresher = embedding.open()
        return cls(
            embedding,
            refresher,
            Hooks(refresher, seconds=embedding.policy.login_budget.total_seconds()),
            Host(refresher, contract=embedding.contract, places=embedding.places),
            Host(refresher, contract=embedding.contract, places=0),
        )

    def close(self) -> None:
        """Wait a few seconds for what goes on, and let go of everything."""
        self.hooks.close()
        self.refresher.close()
