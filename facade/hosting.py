"""What an adapter for a host is made of: see docs/write-your-own-host.md.

A host gives the settings block (`Embedding`), who is logged in by its own session, a route for `Host`, and a call of
`Hooks` at each login and logout. `Service` is all of these, opened together for one process.
"""

from dataclasses import dataclass
from typing import Literal

from phr_refresh.adapters.browser import (
    AsyncHost,
    AsyncHttpStream,
    Contract,
    Host,
    HttpRequest,
    HttpResponse,
    HttpStream,
)
from phr_refresh.adapters.driver import tell
from phr_refresh.adapters.login_hooks.hooks import AsyncHooks, FindPatient, Hooks
from phr_refresh.adapters.ports import Observer
from phr_refresh.statemachine.effects import Fact
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind

from .embedding import Embedding, PatientOf
from .synchronous import PhrRefresh

__all__ = [
    "AsyncHooks",
    "AsyncHost",
    "AsyncHttpStream",
    "Contract",
    "Embedding",
    "FindPatient",
    "Hooks",
    "Host",
    "HttpRequest",
    "HttpResponse",
    "HttpStream",
    "PatientOf",
    "Service",
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


def tell_deferred(observer: Observer, verb: Literal["login", "logout"], reason: str) -> Receipt:
    """Tell that a hook did nothing, and why; the receipt of such a login."""
    tell(observer, Fact(f"{verb}_deferred", details={"reason": reason}, is_warning=True))
    return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)
