"""What every store must do: one suite, run on each kind of store, sync and async alike."""

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import freezegun
import pytest
from phr_refresh.adapters.ports import AsyncStore, Change, ChangeAll, Row, Store, StoreReply, StoreRequest, Written
from phr_refresh.statemachine.effects import ListDue, Load, LoadAll, TokenChange
from phr_refresh.statemachine.patient import key_of
from support.values import replace

T = TypeVar("T")

KEY = key_of("ada")
MINUTE = 60_000
RACERS = 8


class Driven:
    """An async store, driven as if it were a sync one."""

    def __init__(self, store: AsyncStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def call(self, request: StoreRequest) -> StoreReply:
        return self._wait_for(self._store.call(request))

    def close(self) -> None:
        self._wait_for(self._store.close())

    def write_at_once(self, changes: list[Change]) -> list[Written | Row]:
        async def write_all() -> list[Written | Row]:
            return await asyncio.gather(*(self._store.call(change) for change in changes))

        return self._runner.run(write_all())

    def _wait_for(self, answer: Awaitable[T]) -> T:
        async def wait() -> T:
            return await answer

        return self._runner.run(wait())


@pytest.fixture(params=["sync", "async"])
def opened(request, any_backend, runner) -> Iterator:
    """Opens stores on one empty database, and closes them in the end."""
    stores = []

    def open_one() -> Store:
        sync = request.param == "sync"
        stores.append(any_backend.open() if sync else Driven(any_backend.open_async(), runner))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def subject(opened) -> Store:
    """The store under test."""
    return opened()


@pytest.fixture
def now(subject) -> int:
    """The store's clock."""
    return subject.call(Load(KEY)).now


def change(now: int, **fields) -> Change:
    """A change that creates a record, unless `fields` say otherwise."""
    usual = Change(
        key=KEY,
        value=b"record",
        expected_version="",
        decided_at=now,
        max_age=10 * MINUTE,
        due_at=None,
        keep_until=now + 60 * MINUTE,
    )
    return replace(usual, **fields)


def put_token(now: int, **fields) -> dict:
    """The fields of a change that puts a token."""
    return {
        "token_change": TokenChange.PUT,
        "token": b"t\x00ken",
        "token_expires_at": now + 15 * MINUTE,
        **fields,
    }


def content(row: Row) -> tuple:
    """A row without the clock, which goes on."""
    return row.value, row.version, row.token


def write_at_once(store: Store, changes: list[Change]) -> list[Written | Row]:
    """Write all of them as simultaneously as can be."""
    if isinstance(store, Driven):
        return store.write_at_once(changes)
    with ThreadPoolExecutor(len(changes)) as threads:
        return list(threads.map(store.write, changes))


def test_an_unknown_patient_has_an_empty_row(subject):
    """A load of nothing gives no value, no version and no token."""
    assert (None, "", None) == content(subject.call(Load(KEY, with_token=True)))


@pytest.mark.parametrize(
    "value",
    [b"", b"\x00", b"a\x00b\r\n$-1\r\n", bytes(range(256)), "snowman \u2603".encode(), b"x" * 100_000],
    ids=["empty", "nul", "protocol", "every-byte", "utf-8", "large"],
)
def test_bytes_come_back_as_they_were(subject, now, value):
    """A record is bytes, whatever bytes."""
    written = subject.call(change(now, value=value))

    assert (value, written.version, None) == content(subject.call(Load(KEY)))


def test_each_write_has_a_version_of_its_own(subject, now):
    """The same value written twice gives two versions."""
    first = subject.call(change(now))
    second = subject.call(change(now, expected_version=first.version))

    assert isinstance(second, Written)
    assert first.version != second.version


def test_a_write_with_an_outdated_version_gives_the_current_row(subject, now):
    """A lost race is a value: the row that won, without its token."""
    first = subject.call(change(now))
    second = subject.call(change(now, value=b"winner", expected_version=first.version, **put_token(now)))

    lost = subject.call(change(now, value=b"loser", expected_version=first.version))

    assert (b"winner", second.version, None) == content(lost)
    assert (b"winner", second.version, None) == content(subject.call(Load(KEY)))


def test_a_record_is_created_once(subject, now):
    """An empty expected version means: only if there is nothing."""
    first = subject.call(change(now, value=b"first"))

    assert (b"first", first.version, None) == content(subject.call(change(now, value=b"second")))


def test_a_version_where_there_is_nothing_is_a_conflict(subject, now):
    """A record that was forgotten meanwhile is not brought back."""
    assert (None, "", None) == content(subject.call(change(now, expected_version="AAAAAAAA")))
    assert (None, "", None) == content(subject.call(Load(KEY)))


def test_a_decision_that_is_too_old_is_a_conflict(subject, now):
    """What was decided longer ago than `max_age`, by the store's clock, changes nothing."""
    written = subject.call(change(now))

    late = change(
        now, value=b"late", expected_version=written.version, decided_at=now - 10 * MINUTE, max_age=9 * MINUTE
    )

    assert (b"record", written.version, None) == content(subject.call(late))
    assert (b"record", written.version, None) == content(subject.call(Load(KEY)))


def test_a_decision_within_its_age_is_written(subject, now):
    """An old decision is written as long as `max_age` allows."""
    assert isinstance(subject.call(change(now, decided_at=now - 8 * MINUTE, max_age=9 * MINUTE)), Written)


def test_a_token_is_given_only_when_asked_for(subject, now):
    """Status reads never carry the token."""
    subject.call(change(now, **put_token(now)))

    assert subject.call(Load(KEY)).token is None
    assert subject.call(Load(KEY, with_token=True)).token == b"t\x00ken"


def test_a_token_is_kept_replaced_and_dropped(subject, now):
    """Each write says what becomes of the token."""
    written = subject.call(change(now, **put_token(now)))
    written = subject.call(change(now, expected_version=written.version))
    assert subject.call(Load(KEY, with_token=True)).token == b"t\x00ken"

    written = subject.call(change(now, expected_version=written.version, **put_token(now, token=b"other")))
    assert subject.call(Load(KEY, with_token=True)).token == b"other"

    subject.call(change(now, expected_version=written.version, token_change=TokenChange.DROP))
    assert subject.call(Load(KEY, with_token=True)).token is None


def test_a_lost_race_leaves_the_token_alone(subject, now):
    """A conflict neither puts nor drops a token."""
    subject.call(change(now, **put_token(now)))

    subject.call(change(now, token_change=TokenChange.DROP))
    subject.call(change(now, **put_token(now, token=b"loser")))

    assert subject.call(Load(KEY, with_token=True)).token == b"t\x00ken"


def test_an_expired_token_is_not_given(subject, now):
    """The token ends before the record, by itself."""
    subject.call(change(now, **put_token(now, token_expires_at=now - 1)))

    assert (b"record", None) == content(subject.call(Load(KEY, with_token=True)))[::2]


def test_due_lists_what_has_passed_longest_overdue_first(subject, now):
    """Only patients whose deadline has passed are listed, at most so many."""
    for name, due_at in {"b": now - 2, "a": now - 3, "later": now + MINUTE, "c": now - 1, "never": None}.items():
        subject.call(change(now, key=key_of(name), due_at=due_at))

    assert (key_of("a"), key_of("b"), key_of("c")) == tuple(subject.call(ListDue(10)))
    assert (key_of("a"), key_of("b")) == tuple(subject.call(ListDue(2)))
    assert () == tuple(subject.call(ListDue(0)))


def test_a_patient_who_waits_no_longer_is_not_due(subject, now):
    """A write without `due_at` takes the patient off the list; one with another moves them."""
    written = subject.call(change(now, due_at=now - 1))
    written = subject.call(change(now, due_at=now + MINUTE, expected_version=written.version))
    assert () == tuple(subject.call(ListDue(10)))

    written = subject.call(change(now, due_at=now - 1, expected_version=written.version))
    assert (KEY,) == tuple(subject.call(ListDue(10)))

    subject.call(change(now, expected_version=written.version))
    assert () == tuple(subject.call(ListDue(10)))


def test_a_record_past_its_time_is_forgotten(subject, now):
    """After `keep_until` there is nothing: no record, no token, nothing due, and a new record may be created."""
    subject.call(change(now, keep_until=now - 1, due_at=now - 2, **put_token(now)))

    assert (None, "", None) == content(subject.call(Load(KEY, with_token=True)))
    assert () == tuple(subject.call(ListDue(10)))
    assert isinstance(subject.call(change(now)), Written)


def test_time_alone_makes_due_expires_and_forgets(opened, any_backend):
    """The store's clock decides; a frozen one moves only by hand."""
    if not any_backend.has_our_clock:
        pytest.skip("a real server has a clock of its own")
    with freezegun.freeze_time("2026-02-03 04:05:06", real_asyncio=True) as clock:
        subject = opened()
        now = subject.call(Load(KEY)).now
        assert now == 1_770_091_506_000
        subject.call(change(now, due_at=now + MINUTE, **put_token(now)))
        assert () == tuple(subject.call(ListDue(1)))

        clock.tick(60)
        assert (KEY,) == tuple(subject.call(ListDue(1)))
        assert subject.call(Load(KEY)).now == now + MINUTE

        # Redis still gives what expires this very millisecond.
        clock.tick(14 * 60 + 1)
        assert (b"record", None) == content(subject.call(Load(KEY, with_token=True)))[::2]

        clock.tick(45 * 60)
        assert subject.call(Load(KEY)).value is None


def test_every_answer_carries_the_stores_clock(subject, now):
    """Rows, conflicts and commits tell the same time, which never runs backwards."""
    written = subject.call(change(now))
    times = [now, written.now, subject.call(change(now)).now, subject.call(Load(KEY)).now]

    assert sorted(times) == times
    assert times[-1] - times[0] < MINUTE


def test_two_stores_on_one_database_see_each_other(opened, any_backend):
    """What one process writes, another reads and may overwrite."""
    if not any_backend.is_shared:
        pytest.skip("a memory store is its own")
    one, other = opened(), opened()
    written = one.call(change(one.call(Load(KEY)).now, value=b"one"))

    assert (b"one", written.version) == content(other.call(Load(KEY)))[:2]
    assert isinstance(other.call(change(written.now, value=b"other", expected_version=written.version)), Written)
    assert one.call(Load(KEY)).value == b"other"


@pytest.mark.parametrize("exists", [False, True], ids=["create", "replace"])
def test_of_all_who_race_exactly_one_wins(subject, now, exists):
    """Simultaneous writes on one version: one takes effect, and the others are shown it."""
    version = subject.call(change(now)).version if exists else ""
    changes = [change(now, value=b"%d" % racer, expected_version=version) for racer in range(RACERS)]

    answers = write_at_once(subject, changes)

    winners = [racer for racer, answer in enumerate(answers) if isinstance(answer, Written)]
    losers = {content(answer) for answer in answers if isinstance(answer, Row)}
    assert len(winners) == 1
    assert {(b"%d" % winners[0], answers[winners[0]].version, None)} == losers


def test_patients_do_not_touch_each_other(subject, now):
    """Each key has a row of its own, whatever shard it falls into."""
    keys = [key_of(f"user {number}") for number in range(300)]
    for key in keys:
        subject.call(change(now, key=key, value=key.encode(), due_at=now - 1))

    assert [key.encode() for key in keys] == [subject.call(Load(key)).value for key in keys]
    assert set(keys) == set(subject.call(ListDue(1000)))


def test_nothing_is_loaded_and_written_at_no_cost(subject):
    """Empty batches give empty answers."""
    assert [] == list(subject.call(LoadAll(())))
    assert [] == list(subject.call(ChangeAll(())))


def test_several_rows_come_in_the_order_asked_for(subject, now):
    """A batch gives each patient's row, an empty one for a stranger, the same one twice if asked twice, no token."""
    ada = subject.call(change(now, value=b"a", **put_token(now)))
    bob = subject.call(change(now, key=key_of("bob"), value=b"b"))

    rows = subject.call(LoadAll((key_of("bob"), key_of("nobody"), KEY, key_of("bob"))))

    expected = [(b"b", bob.version, None), (None, "", None), (b"a", ada.version, None), (b"b", bob.version, None)]
    assert expected == [content(row) for row in rows]
    assert {True} == {abs(row.now - now) < MINUTE for row in rows}


def test_several_changes_are_each_for_itself(subject, now):
    """A batch answers each change as `write` would: those that lost are shown the winner, the others take effect."""
    ada = subject.call(change(now, value=b"a"))

    answers = subject.call(
        ChangeAll(
            (
                change(now, key=key_of("bob"), value=b"b", due_at=now - 1, **put_token(now)),
                change(now, value=b"lost"),
                change(now, key=key_of("late"), decided_at=now - MINUTE, max_age=0),
                change(now, value=b"a2", expected_version=ada.version),
            )
        )
    )

    assert [Written, Row, Row, Written] == [type(answer) for answer in answers]
    assert [(b"a", ada.version, None), (None, "", None)] == [content(answer) for answer in answers[1:3]]
    assert b"t\x00ken" == subject.call(Load(key_of("bob"), with_token=True)).token
    assert [key_of("bob")] == list(subject.call(ListDue(10)))
    rows = subject.call(LoadAll((KEY, key_of("bob"), key_of("late"))))
    assert [(b"a2", answers[3].version), (b"b", answers[0].version), (None, "")] == [content(row)[:2] for row in rows]


def test_of_two_changes_of_one_patient_in_a_batch_the_first_wins(subject, now):
    """A batch keeps its order: the second change meets what the first has made of the row."""
    first, second = subject.call(ChangeAll((change(now, value=b"first"), change(now, value=b"second"))))

    assert isinstance(first, Written)
    assert (b"first", first.version, None) == content(second)


def test_a_batch_may_be_longer_than_a_message(subject, now):
    """More patients than go together are told apart, in order, and none is left out."""
    keys = [key_of(f"user {number}") for number in range(1_300)]

    written = subject.call(ChangeAll(tuple([change(now, key=key, value=key.encode()) for key in keys])))
    rows = subject.call(LoadAll(tuple(keys)))

    assert [(key.encode(), answer.version, None) for key, answer in zip(keys, written, strict=True)] == [
        content(row) for row in rows
    ]


def test_a_store_without_replicas_has_none_to_wait_for(subject, now, any_backend):
    """Copies that are asked for are no concern of stores that make none; servers that have too few say so."""
    has_enough = any_backend.name in ("memory", "sqlite", "sentinel")
    wait = 4_000 if has_enough else 10

    answers = [
        subject.call(change(now, replicas=1, replicas_wait=wait)),
        *subject.call(ChangeAll((change(now, key=key_of("bob"), replicas=1, replicas_wait=wait),))),
        subject.call(change(now, key=key_of("eve"))),
    ]

    assert [has_enough, has_enough, True] == [answer.is_replicated for answer in answers]


def test_a_batch_does_not_give_what_is_past_its_time(subject, now):
    """What `load` would not see, `load_all` does not either."""
    subject.call(ChangeAll((change(now, keep_until=now - 1), change(now, key=key_of("bob")))))

    assert [(None, "", None), b"record"] == [
        content(subject.call(LoadAll((KEY,)))[0]),
        subject.call(LoadAll((key_of("bob"),)))[0].value,
    ]
