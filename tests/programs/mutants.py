"""Mutation testing of the lifecycle: does some test fail when a small fault is made in `phr_refresh.statemachine`?

`tox -e mutants` tries every mutant that `support/mutations.py` knows; arguments say which to try, such as `rules` or
`flows.Flows.status`.
The tests run once to see which lines each reaches. Then each mutant gets a fork of this warm process, where the
mutated function's code is swapped for the mutant's and the tests that reach it run, the fastest first. What runs when
modules are imported, such as the rows of the table, is imported anew in the fork, with all the tests.

It ends with an error if a mutant survives that `mutants.txt` does not justify, or one that it justifies is killed.
"""

import gc
import os
import resource
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from traceback import print_exc
from types import CodeType, FunctionType, ModuleType

import hypothesis
import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
from support.mutations import Mutant, mutants  # noqa: E402

PACKAGE = "phr_refresh.statemachine"
FOLDER = f"{find_spec('phr_refresh').submodule_search_locations[0]}/statemachine/"
JUSTIFIED = Path(__file__).with_suffix(".txt")
#: Without servers and without processes, which would run the code as it is written; of those that reach everything
#: and take long, none.
NAMES = ["table", "lifecycle", "record", "rules", "policy", "patient", "draft", "kick_off", "views", "errors"]
NAMES += ["diagrams", "trace", "flows_*", "driver", "properties_window", "extracts"]
NAMES += ["words", "values"]
CHOICE = "not redis and not valkey and not sqlite and not (every_order and not crash)"
OPTIONS = [
    *("-q", "-s", "--assert=plain", "-m", "not once", "-k", CHOICE, "-p", "no:randomly", "-p", "no:cacheprovider"),
    *("--rootdir", str(TESTS.parent), "-c", str(TESTS.parent / "tox.ini"), "--doctest-modules", "--pyargs"),
]
FILES = [*(str(path) for name in NAMES for path in sorted(TESTS.glob(f"*/test_{name}.py"))), PACKAGE]
JOBS = int(os.environ.get("PHR_REFRESH_JOBS", "1"))
MONITOR = 4
CPU_SECONDS, WALL_SECONDS, BYTES = 10, 900, 4 << 30
SURVIVED, KILLED, TIMED_OUT, NOT_TRIED = range(4)
Line = tuple[str, int]


class Trial:
    """A pytest plugin that runs the tests as they are, and then those that a mutant concerns, for each mutant."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted
        self.reaching: dict[Line, list[pytest.Item]] = defaultdict(list)
        self.seconds: dict[pytest.Item, float] = {}
        self.at_import: set[Line] = set()
        self.found: list[tuple[Mutant, int]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Called when all tests are imported."""
        self.at_import = _watched()
        for item in session.items:
            _watch()
            started = perf_counter()
            _run(item, None)
            self.seconds[item] = perf_counter() - started
            for line in _watched():
                self.reaching[line].append(item)
        sys.monitoring.free_tool_id(MONITOR)
        if session.testsfailed:
            pytest.exit("the tests fail without any mutant", pytest.ExitCode.TESTS_FAILED)
        gc.collect()
        gc.freeze()
        if _in_fork(lambda: _passes_when_imported(None, None), sum(self.seconds.values())) != SURVIVED:
            pytest.exit("the tests fail without any mutant when imported again", pytest.ExitCode.TESTS_FAILED)
        self._try_all(session)
        return True

    def _try_all(self, session: pytest.Session) -> None:
        running: dict[int, Mutant] = {}
        for path in sorted(Path(FOLDER).glob("*.py")):
            module = import_module(f"{PACKAGE}.{path.stem}")
            for mutant in mutants(module, path.read_text()):
                if not _is_wanted(name_of(mutant), self.wanted):
                    continue
                if len(running) >= JOBS:
                    self._collect(running)
                running[_fork(lambda mutant=mutant: self._fate(session, mutant))] = mutant
        while running:
            self._collect(running)

    def _collect(self, running: dict[int, Mutant]) -> None:
        pid, status = os.wait()
        mutant, fate = running.pop(pid), os.waitstatus_to_exitcode(status)
        self.found.append((mutant, fate))
        if fate != KILLED:
            print(("survived", "", "timed out", "not tried")[fate], name_of(mutant), mutant.lines[0], flush=True)

    def _fate(self, session: pytest.Session, mutant: Mutant) -> int:
        module = sys.modules[mutant.module]
        lines = {(module.__file__, line) for line in mutant.lines}
        items = {item for line in lines for item in self.reaching[line]}
        function = _functions(module).get(mutant.scope or "")
        code = _code_of(mutant.code, mutant.scope)
        if function is not None and code.co_freevars == function.__code__.co_freevars:
            chosen = sorted(items, key=self.seconds.__getitem__)
            function_swapped = lambda: self._passes_when_swapped(session, function, code, chosen)  # noqa: E731
            fate = _in_fork(function_swapped, sum(map(self.seconds.__getitem__, chosen)))
            if fate != SURVIVED or not _body(function) & self.at_import:
                return fate
        expected = sum(self.seconds.values())
        return _in_fork(lambda: _passes_when_imported(mutant.module, mutant.code), expected)

    def _passes_when_swapped(
        self, session: pytest.Session, function: FunctionType, code: CodeType, items: list[pytest.Item]
    ) -> bool:
        function.__code__ = code
        for item, then in zip_longest(items, items[1:]):
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + 3 * self.seconds[item])
            _run(item, then)
            if session.testsfailed:
                return False
        return True


def _watch() -> None:
    """From here on, note each line of the package that runs."""
    lines: set[Line] = set()

    def note(code: CodeType, line: int) -> object:
        if code.co_filename.startswith(FOLDER):
            lines.add((code.co_filename, line))
        return sys.monitoring.DISABLE

    note.lines = lines
    sys.monitoring.register_callback(MONITOR, sys.monitoring.events.LINE, note)
    sys.monitoring.restart_events()


def _watched() -> set[Line]:
    return sys.monitoring.register_callback(MONITOR, sys.monitoring.events.LINE, None).lines


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """Those of a module, its methods and properties, by qualified name."""
    ours = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
    things = ours + [part for thing in ours if isinstance(thing, type) for part in vars(thing).values()]
    bare = [getattr(thing, "fget", None) or getattr(thing, "__func__", thing) for thing in things]
    return {thing.__qualname__: thing for thing in bare if isinstance(thing, FunctionType)}


def _body(function: FunctionType) -> set[Line]:
    code = function.__code__
    return {(code.co_filename, line) for *_, line in code.co_lines() if line and line > code.co_firstlineno}


def _code_of(code: CodeType, scope: str | None) -> CodeType:
    """The code of the function `scope` in that of its module."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return next((part for part in inner if part.co_qualname == scope), None) or next(
        (_code_of(part, scope) for part in inner if f"{scope}.".startswith(f"{part.co_qualname}.")), code
    )


def _run(item: pytest.Item, then: pytest.Item | None) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=then)


def _passes_when_imported(name: str | None, code: CodeType | None) -> bool:
    for key, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith((str(Path(FOLDER).parent), str(TESTS))):
            del sys.modules[key]
    get_code = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, fullname: code if fullname == name else get_code(self, fullname)
    # Most are seen at once, and to collect all tests takes longer than to run these.
    return all(pytest.main([*OPTIONS, "-x", *files]) == pytest.ExitCode.OK for files in (FILES[:3], FILES[3:]))


def _fork(act: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        fate = NOT_TRIED
        try:
            fate = act()
        except BaseException:
            print_exc()
        finally:
            os._exit(fate)
    return pid


def _in_fork(passes: Callable[[], bool], expected: float) -> int:
    """What becomes of a mutant. A loop without end is stopped by the time of the processor, not by the clock."""

    def act() -> int:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + 3 * expected)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS + 3 * expected)
        return SURVIVED if passes() else KILLED

    _, status = os.waitpid(_fork(act), 0)
    code = os.waitstatus_to_exitcode(status)
    return TIMED_OUT if code in (-signal.SIGPROF, -signal.SIGALRM) else NOT_TRIED if code < 0 else code


def name_of(mutant: Mutant) -> str:
    """How a mutant is called: by its module, its function, and what differs."""
    return f"{mutant.module.rpartition('.')[2]}.{mutant.scope or ''}: {mutant.text}"


def _is_wanted(name: str, wanted: list[str]) -> bool:
    return not wanted or any(name.startswith((f"{one}.", f"{one}:")) for one in wanted)


def _report(found: list[tuple[Mutant, int]], wanted: list[str]) -> int:
    fates = Counter(fate for _, fate in found)
    justified = {line for line in JUSTIFIED.read_text().splitlines() if line and not line.startswith("#")}
    justified = {line for line in justified if _is_wanted(line, wanted)}
    survived = {name_of(mutant) for mutant, fate in found if fate == SURVIVED}
    for line in sorted(survived - justified):
        print(f"survives and is not justified: {line}")
    for line in sorted(justified - survived):
        print(f"is justified and does not survive: {line}")
    print(f"{len(found)} mutants: {fates[KILLED]} killed, {fates[TIMED_OUT]} timed out, {fates[SURVIVED]} survived")
    if fates[NOT_TRIED]:
        print(f"{fates[NOT_TRIED]} could not be tried")
    return survived != justified or fates[NOT_TRIED] > 0


def main() -> int:
    """Try them, and tell."""
    if sys.version_info < (3, 12):
        sys.exit("Which lines a test reaches can be watched from Python 3.12 on: take that, or a later one.")
    # Shrinking an example takes long, and that it fails is enough.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    sys.monitoring.use_tool_id(MONITOR, "mutants")
    sys.monitoring.set_events(MONITOR, sys.monitoring.events.LINE)
    _watch()
    trial = Trial(sys.argv[1:])
    stopped = pytest.main([*OPTIONS, *FILES], plugins=[trial])
    return stopped if stopped and not trial.found else _report(trial.found, trial.wanted)


sys.exit(main())
