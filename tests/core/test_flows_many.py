"""Sweeps and statuses of many patients, stepped: in batches, past what cannot be moved, beside other sweepers."""

from dataclasses import dataclass

import pytest
from phr_refresh.statemachine.codec import decode, encode
from phr_refresh.statemachine.effects import CommitAll, Effect, ListDue, LoadAll
from phr_refresh.statemachine.errors import RecordUnreadable, StoreUnavailable
from phr_refresh.statemachine.outcomes import Status, SweepReport
from phr_refresh.statemachine.patient import UserKey, key_of
from phr_refresh.statemachine.record import State
from phr_refresh.statemachine.sweeping import BATCH
from support.samples import DEADLINE, HOUR, NOON, WINDOW, refreshing
from support.stepping import Row, Stepper, World

OVERDUE = NOON + DEADLINE


def overdue(count: int, *, unreadable: int = 0) -> tuple[World, list[UserKey]]:
    """A world in which so many refreshes have run out, the unreadable ones first; and their keys."""
    world = World(now=OVERDUE)
    keys = [key_of(f"user-{number}") for number in range(unreadable + count)]
    for number, key in enumerate(keys):
        value = b'{"v":99}' if number < unreadable else encode(refreshing())
        world.rows[key] = Row(value, f"v{key}", NOON + number, NOON + 100 * HOUR)
    return world, keys


def states(world: World, keys: list[UserKey]) -> list[State]:
    """How the patients stand."""
    statuses = world.run(world.flows.statuses(keys))
    return [statuses[key].state for key in keys]


def effects_of(stepper: Stepper) -> list[str]:
    """The effects of a flow that is run to its end."""
    names = []
    while stepper.effect is not None:
        names.append(type(stepper.effect).__name__)
        stepper.step()
    return names


def test_a_sweep_takes_two_trips_a_batch() -> None:
    """One list, and for each batch one load and one commit of all of it."""
    world, keys = overdue(2 * BATCH + 1)
    assert ["ListDue", *["LoadAll", "CommitAll"] * 3] == effects_of(world.stepper(world.flows.sweep(10 * BATCH)))
    assert {State.STALE} == set(states(world, keys))


def test_a_sweep_tells_what_moved_whereto() -> None:
    """The report counts the moves by from and to, and each is told as a fact of its own."""
    world, keys = overdue(3)
    done = refreshing(state=State.COMPLETE, completed_at=NOON, window_opens_at=NOON + 1)
    world.rows[keys[1]].value = encode(done)
    moves = {"complete -> stale": 1, "refreshing -> stale": 2}
    assert SweepReport(due=3, moved=3, conflicts=0, unreadable=0, moves=moves) == world.run(world.flows.sweep(10))
    assert (2, 1) == (len(world.told("refresh_timed_out")), len(world.told("freshness_expired")))


def test_missed_deadlines_coalesce() -> None:
    """Somebody whose session, refresh and window all ran out long ago is moved once, and never listed again."""
    world, keys = overdue(1)
    world.now = NOON + 50 * HOUR
    assert {"refreshing -> stale": 1} == world.run(world.flows.sweep(10)).moves
    assert 0 == world.run(world.flows.sweep(10)).due
    assert [State.STALE] == states(world, keys)


@pytest.mark.parametrize("unreadable", [1, 5, 6, 30])
def test_unreadable_records_do_not_starve_a_sweep(unreadable: int) -> None:
    """However they head the list: a sweep of 5 moves 5, and each of the others is left as it is."""
    world, keys = overdue(12, unreadable=unreadable)
    report = world.run(world.flows.sweep(5))
    assert (unreadable + 5, 5, unreadable) == (report.due, report.moved, report.unreadable)
    assert 7 == world.run(world.flows.sweep(7)).moved
    assert {b'{"v":99}'} == {world.rows[key].value for key in keys[:unreadable]}
    assert min(unreadable, 10) * 2 == len(world.told("record_unreadable"))


def test_a_sweep_looks_past_unreadable_records_so_far_and_no_further() -> None:
    """After ten times its limit it ends: what a whole fleet of another version wrote is not read at each sweep."""
    world, _ = overdue(3, unreadable=100)
    report = world.run(world.flows.sweep(3))
    assert (0, 33) == (report.moved, report.unreadable)


def test_records_that_stay_due_do_not_starve_a_sweep() -> None:
    """A record that another definition of the lifecycle lists, and that is not due by ours, is looked past."""
    world, keys = overdue(3)
    for key in keys[:2]:
        world.rows[key].value = encode(refreshing(deadline_at=NOON + 2 * DEADLINE))
    report = world.run(world.flows.sweep(1))
    assert (3, 1, 2) == (report.due, report.moved, report.conflicts)


def test_sweepers_meet_and_each_patient_is_moved_once() -> None:
    """Two sweeps, step by step in turn: every patient is moved by one of them, and told once."""
    world, keys = overdue(3 * BATCH)
    steppers = [world.stepper(world.flows.sweep(3 * BATCH)) for _ in range(2)]
    while not all(stepper.is_done for stepper in steppers):
        for stepper in steppers:
            if not stepper.is_done:
                stepper.step()
    reports = [stepper.outcome for stepper in steppers]
    assert 3 * BATCH == sum(report.moved for report in reports)
    assert 3 * BATCH == len(world.told("refresh_timed_out"))
    assert {State.STALE} == set(states(world, keys))


def test_sweepers_begin_in_different_places() -> None:
    """Each sweep has a lot of its own, so that several do not load the same batch at the same time."""
    world, _ = overdue(4 * BATCH)
    begins = set()
    for _ in range(8):
        stepper = world.stepper(world.flows.sweep(4 * BATCH)).until(LoadAll)
        begins.add(stepper.effect.keys[0])
    assert len(begins) > 4


def test_a_store_that_fails_ends_the_sweep() -> None:
    """What was moved before stays moved; the next sweep goes on."""
    world, keys = overdue(2 * BATCH)
    stepper = world.stepper(world.flows.sweep(10 * BATCH)).until(CommitAll, nth=2)
    world.store_failures = 1
    with pytest.raises(StoreUnavailable):
        stepper.run()
    assert BATCH == [decode(world.rows[key].value).state for key in keys].count(State.STALE)
    assert BATCH == world.run(world.flows.sweep(10 * BATCH)).moved


def test_statuses_are_one_trip_a_batch_and_change_nothing() -> None:
    """What is due is applied to what is said, and not to what is stored; the upstream is asked nothing."""
    world, keys = overdue(BATCH + 1)
    assert ["LoadAll", "LoadAll"] == effects_of(world.stepper(world.flows.statuses(keys)))
    assert {State.STALE} == set(states(world, keys))
    assert {encode(refreshing())} == {row.value for row in world.rows.values()}
    assert [] == world.polls


def test_statuses_are_those_of_single_questions() -> None:
    """Each patient's status is the one that a question for it alone gives; one never seen is no exception."""
    world, keys = overdue(2)
    world.now = NOON + WINDOW
    asked = [*keys, key_of("nobody")]
    found = world.run(world.flows.statuses(asked))
    assert asked == list(found)
    for key in asked:
        alone = world.run(world.flows.status(key))
        assert isinstance(found[key], Status)
        assert alone == found[key]


def test_an_unreadable_record_hides_no_other_status() -> None:
    """Its error stands in the place of its status."""
    world, keys = overdue(1, unreadable=1)
    found = world.run(world.flows.statuses(keys))
    assert isinstance(found[keys[0]], RecordUnreadable)
    assert State.STALE is found[keys[1]].state


def test_no_patients_are_no_trip() -> None:
    """An empty list asks nobody."""
    world = World()
    assert {} == world.run(world.flows.statuses([]))
    assert 0 == world.trips


def test_a_sweep_of_one_patient_writes_what_a_status_would() -> None:
    """Whoever applies what is due leaves the same record."""
    swept, keys = overdue(1)
    read, _ = overdue(1)
    swept.run(swept.flows.sweep(1))
    read.run(read.flows.status(keys[0]))
    assert decode(read.rows[keys[0]].value) == decode(swept.rows[keys[0]].value)


def test_a_sweep_that_has_moved_its_limit_lists_no_more() -> None:
    """It is over with the commit of the last one."""
    world, _ = overdue(9)
    assert ["ListDue", "LoadAll", "CommitAll"] == effects_of(world.stepper(world.flows.sweep(5)))


def test_a_sweep_asks_for_as_many_more_as_it_could_not_move() -> None:
    """Those may head the list again; whom it moved is listed no more."""
    world, _ = overdue(9, unreadable=3)
    sweeping, limits = world.stepper(world.flows.sweep(5)), []
    while sweeping.effect is not None:
        limits += [sweeping.effect.limit] if isinstance(sweeping.effect, ListDue) else []
        sweeping.step()
    assert [5, 8] == limits


class Stuttering(World):
    """A store that lists the same patient over and over."""

    def perform(self, effect: Effect) -> object:
        answer = super().perform(effect)
        return tuple(self.rows) * effect.limit if isinstance(effect, ListDue) else answer


def test_a_store_that_lists_a_patient_over_and_over_keeps_no_sweep_busy() -> None:
    """Who was seen is not looked at again."""
    plain, _ = overdue(1)
    report = Stuttering(now=OVERDUE, rows=plain.rows).run(plain.flows.sweep(5))
    assert (1, 1) == (report.due, report.moved)


@dataclass
class Short(World):
    """A store that leaves the last patient out of one of its answers."""

    of: type[Effect] = LoadAll

    def perform(self, effect: Effect) -> object:
        answer = super().perform(effect)
        return answer[:-1] if isinstance(effect, self.of) else answer


@pytest.mark.parametrize(("of", "verb"), [(LoadAll, "statuses"), (LoadAll, "sweep"), (CommitAll, "sweep")])
def test_a_store_that_answers_for_fewer_than_it_was_asked_is_found_out(of: type[Effect], verb: str) -> None:
    """Nobody takes one patient's answer for another's, or for none."""
    plain, keys = overdue(2)
    flow = plain.flows.statuses(keys) if verb == "statuses" else plain.flows.sweep(5)
    with pytest.raises(ValueError, match="zip"):
        Short(now=OVERDUE, rows=plain.rows, of=of).run(flow)
