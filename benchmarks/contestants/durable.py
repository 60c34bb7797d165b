"""A durable engine: DBOS on SQLite, a workflow per patient and window, a step per outside call.

It keeps more than the others do, each step's outcome, and brings its own database: so its figures are beside the
floor, not above it. It has no record to change, hence no logout.
"""

import time
from collections.abc import Callable
from typing import cast

from dbos import DBOS, DBOSConfig, SetWorkflowID

from ..place import WINDOW_SECONDS, Place, Upstream

_NO_WAIT = 0


class Durable:
    """The engine is one per process, and so is this."""

    def __init__(self, place: Place) -> None:
        config: DBOSConfig = {
            "name": "phr-refresh-bench",
            "system_database_url": f"sqlite:///{place.folder}/durable.db",
            "log_level": "ERROR",
        }
        DBOS(config=config)
        self._refresh = _workflow(place.upstream)
        self._upstream = place.upstream
        DBOS.launch()

    def login(self, user: str) -> None:
        """Run the workflow of this window, or get what became of it."""
        with SetWorkflowID(_id_of(user)):
            self._refresh()

    def status(self, user: str) -> str:
        """The event that the workflow has set."""
        state = cast("str | None", DBOS.get_event(_id_of(user), "state", timeout_seconds=_NO_WAIT))
        return state or "no_session"

    def finish(self, user: str) -> None:
        """Not offered."""
        raise NotImplementedError

    def logout(self, user: str) -> None:
        """Not offered."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the engine, and forget the workflow that this contest registered."""
        DBOS.destroy(destroy_registry=True)


def _workflow(upstream: Upstream) -> Callable[[], None]:
    """The workflow, without arguments: the patient is in its id."""

    @DBOS.step()
    def open_session() -> str:
        return upstream.open_session()

    @DBOS.step()
    def start_refresh() -> None:
        upstream.start_refresh()

    @DBOS.workflow()
    def refresh() -> None:
        open_session()
        start_refresh()
        DBOS.set_event("state", "refreshing")

    return refresh


def _id_of(user: str) -> str:
    # Windows by the clock: two kick-offs a minute apart are possible around the full hour.
    return f"{user}:{int(time.time()) // WINDOW_SECONDS}"


def open_durable(place: Place) -> Durable:
    """DBOS."""
    return Durable(place)
