"""The pytest plugin: fixtures on virtual time, whose teardown checks the rules; a report of what tests went through.

``phr``           a `PhrRefresh` of the five fixtures below; at its end the rules are checked, and that nobody is stuck
``phr_clock``     the store's time, see `Clock`
``phr_worker``    the worker, see `ClockedWorker`
``phr_upstream``  the upstream, see `ScriptedUpstream`
``phr_store``     the store, see `SteppableStore`
``phr_policy``    the policy; override the fixture for another one
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.statemachine.policy import Policy

from ..synchronous import PhrRefresh
from .clock import Clock, ClockedWorker
from .coverage import Coverage
from .rules import Rules
from .store import SteppableStore
from .upstream import ScriptedUpstream

_OUTPUT = "phr_refresh_coverage"
_COVERAGE = pytest.StashKey[Coverage]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option for the report."""
    parser.getgroup("phr-refresh").addoption(
        "--phr-coverage", action="store_true", help="Report which states and moves of the lifecycle tests went through."
    )


def pytest_configure(config: pytest.Config) -> None:
    """One count for the whole run."""
    config.stash[_COVERAGE] = Coverage()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist passes on what it counted."""
    output = vars(session.config).get("workeroutput")
    if output is not None:
        output[_OUTPUT] = session.config.stash[_COVERAGE].dump()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The first process adds it up."""
    output = vars(node).get("workeroutput", {})
    if _OUTPUT in output:
        node.config.stash[_COVERAGE].add(output[_OUTPUT])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The report, where it was asked for."""
    if config.getoption("--phr-coverage"):
        terminalreporter.section("phr-refresh lifecycle")
        for line in config.stash[_COVERAGE].report():
            terminalreporter.line(line)


@pytest.fixture
def phr_policy() -> Policy:
    """The default policy, but for a login budget that a busy machine does not exceed."""
    return Policy(login_budget=timedelta(seconds=30))


@pytest.fixture
def phr_clock() -> Clock:
    """The store's time."""
    return Clock()


@pytest.fixture
def phr_worker(phr_clock: Clock) -> ClockedWorker:
    """A worker whose steps run as the clock ticks."""
    return ClockedWorker(phr_clock)


@pytest.fixture
def phr_upstream() -> ScriptedUpstream:
    """An upstream with which all goes well until a test scripts it otherwise."""
    return ScriptedUpstream()


@pytest.fixture
def phr_store(phr_clock: Clock) -> SteppableStore:
    """A store in memory, on the clock's time."""
    return SteppableStore(MemoryStore(clock=phr_clock))


@pytest.fixture
def phr(
    request: pytest.FixtureRequest,
    phr_clock: Clock,
    phr_worker: ClockedWorker,
    phr_upstream: ScriptedUpstream,
    phr_store: SteppableStore,
    phr_policy: Policy,
) -> Iterator[PhrRefresh]:
    """A `PhrRefresh` that the rules watch; a violation fails the test at its end."""
    observer = request.config.stash[_COVERAGE].observing(LogObserver())
    rules = Rules(phr_upstream, clock=phr_clock, policy=phr_policy, observer=observer)
    with PhrRefresh(store=phr_store, upstream=rules, worker=phr_worker, policy=phr_policy, observer=rules) as refresher:
        yield refresher
        rules.check_nobody_is_stuck(refresher)
    if rules.broken:
        pytest.fail("; ".join(rules.broken), pytrace=False)
