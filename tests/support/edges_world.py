"""A world to watch faults in: either public face, time and work in steps, and all that is said."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from phr_refresh import AsyncPhrRefresh, Patient, PhrRefresh, PhrRefreshError, Policy, Receipt, State, Status
from phr_refresh.adapters.ports import Upstream
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.policy import milliseconds

from .edges_time import AsyncShiftedStore, AwaitedWorker, Clock, ShiftedStore, SteppedWorker
from .edges_upstream import Fronts

ADA = Patient("ada", "1012345678V123456", "corr-900123")
BOB = Patient("bob", "1098765432V654321", "corr-900124")
CARL = Patient("carl", "1011111111V111111", "corr-900125")
DORA = Patient("dora", "1022222222V222222", "corr-900126")
#: What nobody may ever see: identifiers and the keys that `edges_upstream` uses.
CANARIES = (
    *(word.lower() for person in (ADA, BOB, CARL, DORA) for word in (person.icn, person.key)),
    *(f"corr-90012{digit}" for digit in (3, 4, 5, 6)),
    *("app-token-7", "system-key-7", "gateway-key-7"),
    # What the simulator's tokens begin with.
    "eyjhbgci",
)
_STORE_TEXT = re.compile(
    r"the store redis://127\.0\.0\.1:\d+ is unavailable \(\w+\); check that it runs and can be reached\."
)
_MOST_STEPS = 200
_READS = 3
_PATIENCE_SECONDS = 20.0


class Heard(logging.Handler):
    """Every log record of every logger, whatever its level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def ours(self) -> list[logging.LogRecord]:
        """Those of phr-refresh itself."""
        return [record for record in self.records if record.name == "phr_refresh"]

    def warnings(self) -> list[str]:
        """Our warnings, each once, with its reason: "step_failed (read_only)"."""
        return list(dict.fromkeys(_shortly(item) for item in self.ours() if item.levelno >= logging.WARNING))


@contextmanager
def hearing(caplog: pytest.LogCaptureFixture) -> Iterator[Heard]:
    """Hears all that is logged in the block."""
    handler = Heard()
    for name in [None, *logging.getLogger().manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def _shortly(record: logging.LogRecord) -> str:
    name = record.getMessage().partition(" ")[0].removeprefix("phr_refresh.")
    found = vars(record)
    within = re.search(r"\((\w+)\);", str(found.get("error", "")))
    reason = within[1] if within else found.get("reason") or found.get("refused")
    return f"{name} ({reason})" if reason else name


class World:
    """One public face on `store`, the upstream behind `fronts`, and `clock`. `texts` collects whatever it answers."""

    def __init__(
        self,
        *,
        store: Any,
        upstream: Upstream,
        fronts: Fronts,
        clock: Clock,
        heard: Heard,
        runner: asyncio.Runner | None = None,
        policy: Policy,
    ) -> None:
        self.clock, self.fronts, self.heard, self.policy = clock, fronts, heard, policy
        self.texts: list[str] = []
        self._runner = runner
        self.worker = AwaitedWorker(clock) if runner else SteppedWorker(clock)
        if runner:
            self.store: Any = AsyncShiftedStore(store, clock)
            self.phr: Any = AsyncPhrRefresh(store=self.store, upstream=upstream, worker=self.worker, policy=policy)
        else:
            self.store = ShiftedStore(store, clock)
            self.phr = PhrRefresh(store=self.store, upstream=upstream, worker=self.worker, policy=policy)

    def close(self) -> None:
        """End the face, and with it store and upstream."""
        self.wait(self.phr.close())

    def ask(self, call: Callable[[], Any]) -> str:
        """The reason why the store does not answer `call`; or "an answer"."""
        try:
            self.texts.append(repr(self.wait(call())))
        except StoreUnavailable as error:
            self.texts += [repr(error), *_texts_behind(error)]
            return error.reason
        return "an answer"

    def wait(self, value: Any) -> Any:
        """`value`, awaited where the face is asynchronous."""

        async def wait(awaitable: Awaitable[Any]) -> Any:
            return await awaitable

        return self._runner.run(wait(value)) if self._runner else value

    # The verbs, as words for the table.

    def login(self, patient: Patient) -> tuple[str, float]:
        """What the login's receipt says, and how many seconds it took. It must not raise: nothing is caught."""
        began = time.perf_counter()
        receipt = self.wait(self.phr.login(patient))
        took = time.perf_counter() - began
        self.texts.append(repr(receipt))
        return in_words(receipt), took

    def say(self, verb: str, *arguments: Any) -> str:
        """What another verb returns or raises. Only errors of phr-refresh's own tree are caught."""
        verbs = {
            "refresh": self.phr.refresh,
            "status": self.phr.status,
            "session": self.phr.session,
            "logout": self.phr.logout,
            "explain": self.phr.explain,
            "sweep": self.phr.sweep,
        }
        try:
            value = self.wait(verbs[verb](*arguments))
        except PhrRefreshError as error:
            self.texts += [repr(error), *_texts_behind(error)]
            reason = getattr(error, "reason", "")
            return f"raises {type(error).__name__}{f' ({reason})' if reason else ''}"
        self.texts.append(repr(value))
        return in_words(value)

    # The worker.

    def work(self) -> None:
        """Run the steps that are due, and those that they hand over at once."""
        while due := self.worker.take_due():
            for step in due:
                assert self.worker.run is not None
                self.wait(self.worker.run(step))

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Let what goes on behind the scenes go on until `holds`, for a bounded time."""
        ends_at = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < ends_at, "it never came about"
            self.wait(asyncio.sleep(0.01) if self._runner else time.sleep(0.01))

    def work_on(self) -> None:
        """Move on from step to step until the worker has none left."""
        for _ in range(_MOST_STEPS):
            self.work()
            if not self.worker.waiting:
                return
            self.clock.offset += max(min(at for at, _ in self.worker.waiting) - self.clock.now(), 0)
        raise AssertionError("the worker never comes to an end")

    # Afterwards.

    def recover(self, **patients: Patient) -> str:
        """How each verb's patient gets their data once the fault has gone; and how many kick-offs it took."""
        ways: dict[str, str] = {}
        for way, take in (
            ("by itself", lambda _: self.work_on()),
            ("when the status is read", self._read),
            ("at the next login", self._log_in),
            ("at the first login of the next window", self._log_in_later),
        ):
            take([patient for verb, patient in patients.items() if verb not in ways])
            found = [verb for verb, patient in patients.items() if self._is_complete(patient.user_id)]
            ways |= {verb: way for verb in found if verb not in ways}
        assert patients.keys() == ways.keys(), "stuck"
        kick_offs = [self.fronts.kick_offs(patient.icn) for patient in patients.values()]
        for times in kick_offs:
            self._check_once_per_window(times)
        alike = len(set(ways.values())) == 1
        how = next(iter(ways.values())) if alike else ", ".join(f"{verb}: {ways[verb]}" for verb in patients)
        return f"{how}; {_counted(kick_offs)}"

    def _read(self, patients: Sequence[Patient]) -> None:
        for patient in patients * _READS:
            self.clock.ahead(self.policy.late_poll_interval.total_seconds() + 1)
            self._is_complete(patient)

    def _log_in(self, patients: Sequence[Patient]) -> None:
        for patient in patients:
            receipt, _ = self.login(patient)
            if receipt == "deferred (over_budget)":
                # On a busy machine: it goes on behind, and the step is handed over a little later.
                self.wait_for(lambda: bool(self.worker.waiting))
            self.work_on()

    def _log_in_later(self, patients: Sequence[Patient]) -> None:
        if patients:
            self.clock.ahead(self.policy.refresh_window.total_seconds() + 1)
            self._log_in(patients)

    def _is_complete(self, who: Patient | str) -> bool:
        status: Status = self.wait(self.phr.status(who))
        return status.state is State.COMPLETE

    def _check_once_per_window(self, times: Sequence[int]) -> None:
        """Rule R1, by what arrived at the upstream."""
        window = milliseconds(self.policy.refresh_window)
        assert [] == [times for before, after in pairwise(times) if after - before < window]

    def check_what_was_said(self) -> None:
        """Errors of the store read as they should; and rule R7, over every answer, error and log record so far."""
        about_the_store = [text for text in self.texts if text.startswith("the store ")]
        assert [] == [text for text in about_the_store if not _STORE_TEXT.fullmatch(text)]
        shown = "\n".join([*self.texts, *(repr(vars(item)) + item.getMessage() for item in self.heard.records)])
        assert [] == [word for word in CANARIES if word in shown.lower()]


def in_words(value: Any) -> str:
    """A receipt or a status in two words, anything else as "an answer"."""
    match value:
        case Receipt(kind=kind, reason=reason):
            return f"{kind} ({reason})" if reason else str(kind)
        case Status(state=state, failure=failure):
            return f"{state} ({failure.code})" if failure else str(state)
        case _:
            return "an answer"


def _counted(kick_offs: Sequence[Sequence[int]]) -> str:
    counts = sorted({len(times) for times in kick_offs})
    said = ["1 kick-off" if count == 1 else f"{count} kick-offs" for count in counts]
    return f"{' or '.join(said)} each"


def _texts_behind(error: BaseException) -> list[str]:
    # What our own errors are chained to comes from the client libraries and stays below them; a traceback shows it.
    texts = []
    link: BaseException | None = error
    while link is not None:
        texts.append(str(link))
        link = link.__cause__ or link.__context__
    return texts
