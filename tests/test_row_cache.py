"""RowCache: which rows are believed, and for how long."""

import pytest
from phr_refresh.adapters.ports import Row
from phr_refresh.adapters.stores.row_cache import LIFE, TRUST, Listening, RowCache, Source
from phr_refresh.statemachine.patient import key_of
from support.samples import NOON

ADA, BOB, EVE = (key_of(name) for name in ("ada", "bob", "eve"))
ROW = Row(b"record", "AAAAAAAA", NOON)


class Clock:
    """Seconds from anywhen, stepped by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> RowCache:
    """Room for two, and somebody listens."""
    cache = RowCache(2, clock)
    listen(cache)
    return cache


def listen(cache: RowCache) -> Listening:
    """Somebody listens from now on, and has just been heard."""
    listening = Listening(7)
    listening.heard_at = cache.clock()
    cache.listen(listening)
    return listening


def bring(cache: RowCache, key: str = ADA, row: Row = ROW, source: Source | None = None) -> Source:
    """A row comes, over a connection of its own if not over `source`."""
    ticket = cache.ticket(key)
    assert ticket is not None
    ticket.source = source or Source(ticket.listening)
    cache.fill(ticket, row)
    return ticket.source


def test_what_came_is_there(cache: RowCache) -> None:
    """The same bytes, not equal ones, so that what was made of them can be kept by them; and no token."""
    assert cache.get(ADA) is None
    bring(cache)
    found = cache.get(ADA)
    assert ROW == found
    assert ROW.value is found.value
    assert (1, 1) == (cache.hits, cache.misses)


def test_the_stores_clock_goes_on(cache: RowCache, clock: Clock) -> None:
    """By the time that has passed here, less a thousandth: it is never ahead of the store's."""
    bring(cache)
    assert cache.get(ADA).now == NOON
    clock.now += 1.5
    assert NOON + 1498 == cache.get(ADA).now


def test_a_row_is_believed_while_both_connections_are_heard(cache: RowCache, clock: Clock) -> None:
    """The listener's and the one that it was read over; each row that comes over that one is a sign of life."""
    listening = listen(cache)
    source = bring(cache)
    for _ in range(20):
        clock.now += TRUST * 0.9
        listening.heard_at = clock.now
        bring(cache, BOB, source=source)
        assert cache.get(ADA) is not None


@pytest.mark.parametrize("silent", ["listener", "source"])
def test_a_row_is_not_believed_where_one_of_them_is_silent(cache: RowCache, clock: Clock, silent: str) -> None:
    """Not after `TRUST`; and again once it is heard, for nothing was missed then."""
    listening = listen(cache)
    source = bring(cache)
    clock.now += TRUST
    heard, unheard = (source, listening) if silent == "listener" else (listening, source)
    heard.heard_at = clock.now
    assert cache.get(ADA) is None
    unheard.heard_at = clock.now
    assert NOON + int(TRUST * 999) == cache.get(ADA).now


def test_a_connection_is_heard_as_of_when_it_was_asked(cache: RowCache, clock: Clock) -> None:
    """A reply that was long on its way tells how things were when it was asked for, at the earliest."""
    ticket = cache.ticket(ADA)
    ticket.source = Source(ticket.listening)
    clock.now += TRUST
    ticket.listening.heard_at = clock.now
    cache.fill(ticket, ROW)
    assert cache.get(ADA) is None


def test_a_row_that_was_long_on_its_way_makes_no_connection_older(cache: RowCache, clock: Clock) -> None:
    """The last sign of life counts, whichever row is told of first."""
    slow = cache.ticket(ADA)
    clock.now += 1
    slow.source = bring(cache, BOB)
    cache.fill(slow, ROW)
    assert clock.now == slow.source.heard_at


def test_a_row_has_an_end(cache: RowCache, clock: Clock) -> None:
    """However well all are heard."""
    listening, source = cache.ticket(BOB).listening, bring(cache)
    clock.now += LIFE - 0.5
    listening.heard_at = source.heard_at = clock.now
    assert cache.get(ADA) is not None
    clock.now += 0.5
    assert cache.get(ADA) is None


def test_a_clock_that_jumps_proves_nothing(cache: RowCache, clock: Clock) -> None:
    """Tests freeze clocks, and let them go."""
    bring(cache)
    clock.now -= 500
    assert (None, False) == (cache.get(ADA), cache.is_told)


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.drop(ADA),
        lambda cache: cache.flush(),
        listen,
        lambda cache: cache.listen(None),
        lambda cache: cache.close(),
    ],
    ids=["drop", "flush", "another-listener", "no-listener", "close"],
)
def test_what_may_have_changed_is_forgotten(cache: RowCache, change) -> None:
    """A row that is there, and one that is on its way: it was read before, and would never be told of again."""
    bring(cache)
    late = cache.ticket(BOB if change is listen else ADA)
    late.source = Source(late.listening)
    change(cache)
    cache.fill(late, ROW)
    assert (None, None) == (cache.get(ADA), cache.get(late.key))


def test_what_changes_for_one_stays_for_others(cache: RowCache) -> None:
    """Each patient's row for itself."""
    bring(cache)
    late = cache.ticket(BOB)
    late.source = Source(late.listening)
    cache.drop(EVE)
    cache.fill(late, ROW)
    assert None not in (cache.get(ADA), cache.get(BOB))


def test_of_two_who_read_at_once_the_later_one_brings_the_row(cache: RowCache) -> None:
    """Whoever comes first: each has an answer anyway."""
    first, second = cache.ticket(ADA), cache.ticket(ADA)
    for ticket, version in ((second, "second"), (first, "first")):
        ticket.source = Source(ticket.listening)
        cache.fill(ticket, Row(b"", version, NOON))
    assert "second" == cache.get(ADA).version


def test_what_nobody_tells_of_is_not_kept(cache: RowCache) -> None:
    """A row that was read over a connection that is not tracked; and nothing at all while nobody listens."""
    bring(cache)
    cache.fill(cache.ticket(ADA), ROW)
    assert cache.get(ADA) is None
    cache.listen(None)
    assert cache.ticket(ADA) is None


def test_a_listener_that_was_never_heard_is_not_believed(cache: RowCache) -> None:
    """It has yet to answer once."""
    cache.listen(Listening(8))
    bring(cache)
    assert (None, False) == (cache.get(ADA), cache.is_told)


def test_the_oldest_gives_way(cache: RowCache) -> None:
    """There is room for two; who is read anew is the youngest."""
    bring(cache, ADA)
    bring(cache, BOB)
    bring(cache, ADA)
    bring(cache, EVE)
    assert [True, False, True] == [cache.get(key) is not None for key in (ADA, BOB, EVE)]


def test_rows_that_are_over_leave_as_others_come(clock: Clock) -> None:
    """A process does not keep rows of patients who are long gone."""
    cache = RowCache(1000, clock)
    listen(cache)
    for number in range(100):
        bring(cache, key_of(f"gone {number}"))
    clock.now += LIFE
    listen_again = cache.ticket(ADA).listening
    listen_again.heard_at = clock.now
    for number in range(50):
        bring(cache, key_of(f"here {number}"))
    assert 50 == len(cache._entries)
