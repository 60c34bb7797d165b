"""A store that can be stepped: something happens before or after the calls that a test chooses."""

from collections import defaultdict
from collections.abc import Callable

from phr_refresh.adapters.ports import Change, ChangeAll, Store, StoreReply, StoreRequest
from phr_refresh.statemachine.effects import ListDue, Load, LoadAll
from phr_refresh.statemachine.errors import StoreUnavailable


class SteppableStore:
    """Passes everything on to `store`. `calls` are the names of the calls so far.

    They are "load", "load with token", "write", "due", and "load_all" and "write_all", which take
    many patients.

    Calls are counted by kind from 1: ``store.before("write", 2, act)`` runs `act` before the second write reaches the
    store, which is how two verbs meet in the order that a test wants.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        #: While it is set, every call fails.
        self.is_down = False
        self._before: dict[tuple[str, int], list[Callable[[], object]]] = defaultdict(list)
        self._after: dict[tuple[str, int], list[Callable[[], object]]] = defaultdict(list)

    def before(self, kind: str, number: int, act: Callable[[], object]) -> None:
        """Run `act` before the `number`-th call of `kind` from now on."""
        self._before[kind, self._count(kind) + number].append(act)

    def fail(self, kind: str, number: int = 1) -> None:
        """The `number`-th call of `kind` from now on fails, and has no effect."""
        self.before(kind, number, _unavailable)

    def lose_answer(self, number: int = 1) -> None:
        """The `number`-th write from now on takes effect, and its answer is lost."""
        self._after["write", self._count("write") + number].append(_unavailable)

    def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`."""
        kind = _KINDS[type(request)]
        self._note("load with token" if isinstance(request, Load) and request.with_token else kind)
        number = self._count(kind)
        reply = self.store.call(request)
        for act in self._after.pop((kind, number), ()):
            act()
        return reply

    def close(self) -> None:
        """See `Store.close`."""
        self.store.close()

    def _count(self, kind: str) -> int:
        return sum(call.partition(" ")[0] == kind for call in self.calls)

    def _note(self, call: str) -> None:
        self.calls.append(call)
        kind = call.partition(" ")[0]
        if self.is_down:
            _unavailable()
        for act in self._before.pop((kind, self._count(kind)), ()):
            act()


_KINDS = {Load: "load", Change: "write", LoadAll: "load_all", ChangeAll: "write_all", ListDue: "due"}


def _unavailable() -> None:
    raise StoreUnavailable("of the test", "scripted")
