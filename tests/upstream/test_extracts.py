"""What a status answer means: adapters/status_polling/extracts.py."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.adapters.status_polling.extracts import judge
from phr_refresh.statemachine.effects import AskStatus, CouldNotAsk, Phase, StatusReport
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.record import ExtractProgress, ExtractState

CLAIMED = 1_900_000_000_000
GRACE = 10_000
TOLERANCE = 120_000
PATIENT = Patient("ada", "1012345678V123456", "12345")
OLD = -3_600_000


def at(offset):
    return None if offset is None else CLAIMED + offset


def row(extract="VPR", *, q, c, s, load_status="OK", station="0"):
    return {
        "extract": extract,
        "stationNumber": station,
        "lastRequested": at(q),
        "lastCompleted": at(c),
        "lastSuccessfulCompleted": at(s),
        "loadStatus": load_status,
        "errorMessage": "site 979 said no",
        "icn": PATIENT.icn,
    }


def judged(*rows, asked=5_000, answered=200, skew=0, wanted=("VPR",), **changes):
    """The verdict on `rows`, asked `asked` ms after the claim, by a server whose clock is `skew` ms ahead."""
    body = {"retrievedDate": CLAIMED + asked + skew, "facilityExtractStatusList": list(rows)} | changes
    question = AskStatus(PATIENT, CLAIMED, at(answered), CLAIMED + asked)
    return judge(body, wanted=wanted, question=question, grace=GRACE, tolerance=TOLERANCE)


def state(*rows, **how):
    return judged(*rows, **how).extracts[0].state


IN_PROGRESS, CURRENT, FAILED = ExtractState.IN_PROGRESS, ExtractState.CURRENT, ExtractState.FAILED
RULES = {
    "1: no lastRequested": (row(q=None, c=1000, s=1000), IN_PROGRESS),
    "2: requested after it was completed": (row(q=1000, c=999, s=999), IN_PROGRESS),
    "2: never completed": (row(q=1000, c=None, s=None, load_status=None), IN_PROGRESS),
    "2: requested again after an error": (row(q=1000, c=999, s=None, load_status="ERROR"), IN_PROGRESS),
    "3: never completed, with an explicit error": (row(q=1000, c=None, s=None, load_status="ERROR"), FAILED),
    "3: an explicit error": (row(q=1000, c=1000, s=1000, load_status="ERROR"), FAILED),
    "3: an explicit error in small letters": (row(q=1000, c=2000, s=2000, load_status="error"), FAILED),
    "3: success older than completion": (row(q=1000, c=2000, s=1999), FAILED),
    "3: never a success": (row(q=1000, c=2000, s=None), FAILED),
    "4: settled at the instant it was requested": (row(q=1000, c=1000, s=1000), CURRENT),
    "4: no loadStatus": (row(q=1000, c=2000, s=2000, load_status=None), CURRENT),
    "4: exactly the tolerance before our kick-off": (row(q=OLD, c=-TOLERANCE, s=-TOLERANCE), CURRENT),
    "5: a millisecond more": (row(q=OLD, c=-TOLERANCE - 1, s=-TOLERANCE - 1), IN_PROGRESS),
    "5: an error of an earlier refresh": (row(q=OLD, c=OLD, s=None, load_status="ERROR"), IN_PROGRESS),
    "5: an error without completion, requested earlier": (row(q=OLD, c=None, s=None, load_status="ERROR"), IN_PROGRESS),
    "5: a success later than the server's present": (row(q=1000, c=125_001, s=125_001), IN_PROGRESS),
}


@pytest.mark.parametrize(("item", "expected"), RULES.values(), ids=RULES)
def test_each_rule_at_its_edge(item, expected):
    """Within the grace, each rule decides exactly up to its edge."""
    assert expected == state(item)


AFTER_GRACE = {
    "an old success stands": (row(q=OLD, c=OLD, s=OLD), CURRENT),
    "an old error stands": (row(q=OLD, c=OLD, s=OLD - 1, load_status="ERROR"), FAILED),
    "a running load runs": (row(q=1000, c=OLD, s=OLD), IN_PROGRESS),
    "an unrequested one waits": (row(q=None, c=None, s=None, load_status=None), IN_PROGRESS),
}


@pytest.mark.parametrize(("item", "expected"), AFTER_GRACE.values(), ids=AFTER_GRACE)
def test_after_the_grace_what_is_settled_stands(item, expected):
    """Once the grace is over, the upstream's earlier data or failure is its last word, and the rest still runs."""
    assert expected == state(item, asked=200 + GRACE)


def test_the_grace_ends_at_its_last_millisecond():
    """Old data are in progress one millisecond before the grace is over, and current from then on."""
    old = row(q=OLD, c=OLD, s=OLD)
    assert IN_PROGRESS == state(old, asked=200 + GRACE - 1)
    assert CURRENT == state(old, asked=200 + GRACE)


@pytest.mark.parametrize("load_status", ["OK", "ERROR"])
def test_a_lost_answer_has_no_grace_to_end(load_status):
    """Where the kick-off's answer was lost, an earlier refresh's end never counts, however late it is asked."""
    assert IN_PROGRESS == state(row(q=OLD, c=OLD, s=OLD, load_status=load_status), asked=3_000_000, answered=None)


def test_a_lost_answer_is_settled_by_what_is_ours():
    """Where the kick-off's answer was lost, a load that ended after the claim completes the refresh."""
    assert Phase.COMPLETE == judged(row(q=1000, c=2000, s=2000), answered=None).phase


@pytest.mark.parametrize("skew", [-7_200_000, 7_200_000])
def test_ages_are_judged_by_the_servers_clock(skew):
    """A server whose clock is hours off gives the same verdicts: new is current, old is not yet."""
    new = row(q=1000 + skew, c=2000 + skew, s=2000 + skew)
    old = row(q=OLD + skew, c=OLD + skew, s=OLD + skew)
    assert (CURRENT, IN_PROGRESS) == (state(new, skew=skew), state(old, skew=skew))


GOOD = row(q=0, c=1000, s=1000, station="0")
BAD = row(q=0, c=1500, s=900, station="979", load_status="ERROR")
RUNNING = row(q=3000, c=500, s=500, station="980")
STATIONS = {
    "in progress before failed and current": ((GOOD, BAD, RUNNING), IN_PROGRESS),
    "failed before current": ((GOOD, BAD), FAILED),
    "current alone": ((GOOD, GOOD), CURRENT),
}


@pytest.mark.parametrize(("rows", "expected"), STATIONS.values(), ids=STATIONS)
def test_the_worst_station_counts_in_any_order(rows, expected):
    """Of several stations' rows the worst counts: in progress, then failed, then current."""
    assert {expected} == {state(*order) for order in permutations(rows)}


def test_succeeded_at_is_the_oldest_station():
    """An extract's success is its oldest station's."""
    older = row(q=0, c=800, s=800, station="979")
    assert (ExtractProgress("VPR", CURRENT, at(800)),) == judged(GOOD, older).extracts


def test_succeeded_at_is_unknown_if_one_station_never_succeeded():
    """An extract one of whose stations never succeeded has no success to show."""
    never = row(q=0, c=800, s=None, station="979")
    assert (ExtractProgress("VPR", FAILED, None),) == judged(GOOD, never).extracts


def test_a_refresh_is_complete_in_part():
    """All settled, one failed: complete, with the failed one listed and `as_of` the oldest current success."""
    report = judged(
        row("Allergy", q=0, c=900, s=900),
        row("VPR", q=0, c=4000, s=4000),
        row("ImagingStudy", q=0, c=1000, s=OLD, load_status="ERROR"),
        wanted=("VPR", "Allergy", "ImagingStudy"),
    )
    expected = StatusReport(
        Phase.COMPLETE,
        (
            ExtractProgress("VPR", CURRENT, at(4000)),
            ExtractProgress("Allergy", CURRENT, at(900)),
            ExtractProgress("ImagingStudy", FAILED, at(OLD)),
        ),
        as_of=at(900),
        ended_at=at(4000),
    )
    assert expected == report


ENDS = {
    "the last of all": ([row("Allergy", q=0, c=900, s=900), row(q=0, c=4000, s=4000)], 4000),
    "of all stations": ([row(q=0, c=4000, s=4000), row(q=0, c=4100, s=4100, station="979")], 4100),
    "a failure is an end too": ([row("Allergy", q=0, c=4500, s=OLD, load_status="ERROR"), row(q=0, c=4, s=4)], 4500),
    "one that has no time of its own": ([row("Allergy", q=70, c=None, s=None, load_status="ERROR"), GOOD], 1000),
    "seen at the time of asking at the latest": ([row(q=0, c=5900, s=5900)], 5000),
    "before the claim": ([row(q=-1, c=0, s=0)], None),
    "of an earlier refresh": ([row("Allergy", q=OLD, c=OLD, s=OLD), row(q=0, c=4000, s=4000)], None),
}


@pytest.mark.parametrize("skew", [0, 3_600_000, -3_600_000])
@pytest.mark.parametrize("case", ENDS)
def test_the_end_is_told_by_our_clock(case, skew):
    """`ended_at` is when the last row of this refresh ended, whatever the server's clock shows."""
    rows, expected = ENDS[case]
    moments = ("lastRequested", "lastCompleted", "lastSuccessfulCompleted")
    shifted = [
        found | {name: None if found[name] is None else found[name] + skew for name in moments} for found in rows
    ]
    # Asked 5 s after the claim; the grace was over by then where an earlier refresh is to be let stand.
    answered = -GRACE if case == "of an earlier refresh" else 200
    wanted = sorted({found["extract"] for found in rows})
    report = judged(*shifted, skew=skew, answered=answered, wanted=wanted)
    assert (Phase.COMPLETE, at(expected)) == (report.phase, report.ended_at)


def test_without_an_end_there_is_no_time_of_it():
    """Neither while it goes on, nor where all failed."""
    assert [None, None] == [judged().ended_at, judged(row(q=0, c=1000, s=None)).ended_at]


def test_a_refresh_has_failed_when_all_have():
    """All settled, none current: failed, and no `as_of`."""
    report = judged(row(q=0, c=1000, s=None))
    assert (Phase.FAILED, None) == (report.phase, report.as_of)


def test_a_refresh_is_in_progress_while_any_extract_is():
    """One wanted extract without a row keeps the refresh in progress."""
    assert Phase.IN_PROGRESS == judged(GOOD, wanted=("VPR", "Allergy")).phase


def test_an_empty_list_is_in_progress():
    """A patient with nothing loaded yet has no rows: the refresh is in progress."""
    assert StatusReport(Phase.IN_PROGRESS, (ExtractProgress("VPR", IN_PROGRESS),)) == judged()


def test_unwanted_extracts_do_not_count():
    """What nobody asked for cannot hold up, fail or spoil the refresh."""
    failed = row("DodMilitaryService", q=0, c=1000, s=None, load_status="ERROR")
    broken = {"extract": "Appointments", "lastRequested": "soon", "loadStatus": 7}
    assert Phase.COMPLETE == judged(GOOD, failed, broken, None, 7, {"extract": ["VPR"]}, {}).phase


HOSTILE_TIMES = [True, "1900000000000", 1.9e12, -1, 0, 10**18, [], {}, float("nan")]


@pytest.mark.parametrize("value", HOSTILE_TIMES, ids=repr)
@pytest.mark.parametrize("name", ["lastRequested", "lastCompleted", "lastSuccessfulCompleted"])
def test_a_time_that_is_none_makes_the_answer_unreadable(name, value):
    """A wanted row with something else for a time proves nothing, neither success nor failure."""
    assert CouldNotAsk("unreadable_answer") == judged(GOOD | {name: value})


@pytest.mark.parametrize("value", [*HOSTILE_TIMES, None], ids=repr)
def test_without_the_servers_clock_nothing_is_judged(value):
    """An answer without a `retrievedDate` that is a time is unreadable."""
    assert CouldNotAsk("unreadable_answer") == judged(GOOD, retrievedDate=value)


@pytest.mark.parametrize("value", [None, {}, "rows", 7, True], ids=repr)
def test_a_list_that_is_none_makes_the_answer_unreadable(value):
    """Only a list of rows can say that there are none."""
    assert CouldNotAsk("unreadable_answer") == judged(facilityExtractStatusList=value)


def test_nothing_of_the_patient_or_the_error_text_is_kept():
    """Neither the ICN nor the upstream's error text appears in the report."""
    shown = repr(judged(BAD, GOOD))
    assert not any(word in shown for word in (PATIENT.icn, "979", "said no"))


OFFSETS = st.none() | st.integers(-4_000_000, 4_000_000)
ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from(["VPR", "Allergy", "Other"]),
        q=OFFSETS,
        c=OFFSETS,
        s=OFFSETS,
        load_status=st.sampled_from(["OK", "ERROR", None]),
        station=st.sampled_from(["0", "979"]),
    ),
    max_size=6,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("VPR"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*row(q=0, c=0, s=0), "retrievedDate"]), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(retrieved=st.just(CLAIMED) | JSON, rows=st.lists(JSON, max_size=4) | JSON)
def test_no_json_makes_it_raise(retrieved, rows):
    """Whatever JSON arrives, the verdict is a report or a `CouldNotAsk`."""
    verdict = judged(retrievedDate=retrieved, facilityExtractStatusList=rows)
    assert isinstance(verdict, StatusReport | CouldNotAsk)


@given(rows=ROWS, asked=st.integers(0, 4_000_000), skew=st.integers(-10_000_000, 10_000_000))
def test_the_servers_clock_changes_no_state(rows, asked, skew):
    """Moving all of the server's times by the same amount moves no verdict."""
    times = ("lastRequested", "lastCompleted", "lastSuccessfulCompleted")
    moved = [item | {name: item[name] and item[name] + skew for name in times} for item in rows]
    states = [item.state for item in judged(*rows, asked=asked, wanted=("VPR", "Allergy")).extracts]
    assert states == [item.state for item in judged(*moved, asked=asked, skew=skew, wanted=("VPR", "Allergy")).extracts]


@given(rows=ROWS, asked=st.integers(0, 4_000_000))
def test_as_of_is_the_oldest_current_success(rows, asked):
    """`as_of` is the least success of the current extracts, and None exactly when none is current."""
    report = judged(*rows, asked=asked, wanted=("VPR", "Allergy"))
    current = [item.succeeded_at for item in report.extracts if item.state is CURRENT]
    assert min(current, default=None) == report.as_of


@given(rows=ROWS)
def test_a_lost_kick_off_is_never_completed_by_older_loads(rows):
    """With the answer lost, loads that all ended before the claim leave the refresh in progress."""
    ended = [item for item in rows if max(at(0), *(item[n] or 0 for n in item if n.startswith("last"))) == at(0)]
    older = [item | {n: item[n] and item[n] - TOLERANCE - 1 for n in item if n.startswith("last")} for item in ended]
    assert Phase.IN_PROGRESS == judged(*older, answered=None, asked=3_000_000).phase
