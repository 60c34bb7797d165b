"""The hooks of every host: whatever is behind them, a login and a logout go on (rule R5)."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from phr_refresh import Patient, Receipt, ReceiptKind, StoreUnavailable
from phr_refresh.adapters.login_hooks.hooks import AsyncHooks, Hooks
from support.fakes import Silent
from support.samples import ADA, ICN

DONE = Receipt(kind=ReceiptKind.HANDED_OVER)


class Refresher:
    """Remembers what it was asked; `trouble` runs before it answers."""

    def __init__(self, trouble: Callable[[], object] = lambda: None) -> None:
        self.observer = Silent()
        self.asked: list[str] = []
        self.trouble = trouble

    def login(self, patient: Patient) -> Receipt:
        self.asked.append("login")
        self.trouble()
        return DONE

    def logout(self, who: Patient | str) -> None:
        self.asked.append("logout")
        self.trouble()


class AsyncRefresher:
    """The same, awaited. `hang` is waited for before an answer."""

    def __init__(self, trouble: Callable[[], object] = lambda: None) -> None:
        self.observer = Silent()
        self.asked: list[str] = []
        self.trouble = trouble
        self.hang: asyncio.Event | None = None

    async def login(self, patient: Patient) -> Receipt:
        self.asked.append("login")
        self.trouble()
        return DONE

    async def logout(self, who: Patient | str) -> None:
        self.asked.append("logout")
        if self.hang is not None:
            await self.hang.wait()
        self.trouble()


def store_down() -> None:
    raise StoreUnavailable("of the records", "refused")


def nobody_found() -> Patient:
    raise LookupError(f"no row for {ICN}")


def both(refresher: Refresher, find: Callable[[], Patient | None]) -> tuple[Receipt | None, None]:
    with closing(Hooks(refresher, seconds=30)) as hooks:
        return hooks.logged_in(find), hooks.logged_out(find)


def async_both(refresher: AsyncRefresher, find: Callable[[], Patient | None]) -> tuple[Receipt | None, None]:
    async def work() -> tuple[Receipt | None, None]:
        hooks = AsyncHooks(refresher, seconds=30)
        answers = await hooks.logged_in(find), await hooks.logged_out(find)
        await hooks.close()
        return answers

    return asyncio.run(work())


KINDS = pytest.mark.parametrize(
    ("kind", "run"), [(Refresher, both), (AsyncRefresher, async_both)], ids=["sync", "async"]
)


@KINDS
def test_a_patient_is_logged_in_and_out(kind, run) -> None:
    """The hooks pass on what the verbs answer."""
    refresher = kind()
    assert (DONE, None) == run(refresher, lambda: ADA)
    assert (["login", "logout"], []) == (refresher.asked, refresher.observer.facts)


@KINDS
def test_a_user_who_is_no_patient_is_let_through(kind, run) -> None:
    """Nobody is asked, and nothing is told: staff log in too."""
    refresher = kind()
    assert (None, None) == run(refresher, lambda: None)
    assert ([], []) == (refresher.asked, refresher.observer.facts)


@KINDS
def test_a_hook_whose_patient_cannot_be_found_lets_the_user_through(kind, run) -> None:
    """Each failure of the host's own `patient_of` is one fact, without what the exception said."""
    refresher = kind()
    assert (None, None) == run(refresher, nobody_found)
    assert ["hook_failed"] * 2 == [fact.name for fact in refresher.observer.facts]
    assert ["login", "logout"] == [fact.details["hook"] for fact in refresher.observer.facts]
    assert "LookupError" in str(refresher.observer.facts[0].details["error"])
    assert ICN not in str(refresher.observer.facts)


@KINDS
def test_a_verb_that_raises_lets_the_user_through(kind, run) -> None:
    """Each failure is one fact."""
    refresher = kind(store_down)
    assert (None, None) == run(refresher, lambda: ADA)
    assert ["hook_failed"] * 2 == [fact.name for fact in refresher.observer.facts]


def test_a_logout_that_hangs_is_not_waited_for() -> None:
    """It goes on behind the caller, is told of once, and is done before the hooks are closed."""
    may_go = threading.Event()
    refresher = Refresher(lambda: may_go.wait(30))
    hooks = Hooks(refresher, seconds=0.01)
    hooks.logged_out(lambda: ADA)
    assert ["logout_deferred"] == [fact.name for fact in refresher.observer.facts]
    may_go.set()
    hooks.close()
    assert ["logout"] == refresher.asked


def test_an_asynchronous_logout_that_hangs_is_not_waited_for() -> None:
    """The same on asyncio."""
    refresher = AsyncRefresher(store_down)

    async def work() -> None:
        refresher.hang = asyncio.Event()
        hooks = AsyncHooks(refresher, seconds=0.01)
        await hooks.logged_out(lambda: ADA)
        assert ["logout_deferred"] == [fact.name for fact in refresher.observer.facts]
        refresher.hang.set()
        await hooks.close()

    asyncio.run(work())
    assert ["logout_deferred", "hook_failed"] == [fact.name for fact in refresher.observer.facts]


def test_an_awaited_patient_that_is_long_in_coming_holds_nobody_up() -> None:
    """Login and logout are deferred and told of, and done behind their callers once the patient is there."""
    refresher = AsyncRefresher()

    async def work() -> Receipt | None:
        found = asyncio.Event()

        async def find() -> Patient:
            await found.wait()
            return ADA

        hooks = AsyncHooks(refresher, seconds=0.01)
        receipt = await hooks.logged_in(find)
        await hooks.logged_out(find)
        assert [] == refresher.asked
        found.set()
        await hooks.close()
        return receipt

    assert Receipt(kind=ReceiptKind.DEFERRED, reason="over_budget") == asyncio.run(work())
    assert ["login_deferred", "logout_deferred"] == [fact.name for fact in refresher.observer.facts]
    assert ["login", "logout"] == sorted(refresher.asked)


@pytest.mark.parametrize("patient", [ADA, None], ids=["a patient", "nobody"])
def test_the_patient_may_be_awaited(patient: Patient | None) -> None:
    """On asyncio `find` may give what is to be awaited for the patient."""
    refresher = AsyncRefresher()

    async def find() -> Patient | None:
        await asyncio.sleep(0)
        return patient

    assert (DONE if patient else None, None) == async_both(refresher, find)
    assert (["login", "logout"] if patient else [], []) == (refresher.asked, refresher.observer.facts)


def test_an_awaited_search_that_fails_lets_the_user_through() -> None:
    """Each failure is one fact, without what the exception said."""
    refresher = AsyncRefresher()

    async def find() -> Patient:
        await asyncio.sleep(0)
        return nobody_found()

    assert (None, None) == async_both(refresher, find)
    assert ["login", "logout"] == [fact.details["hook"] for fact in refresher.observer.facts]
    assert ICN not in str(refresher.observer.facts)
