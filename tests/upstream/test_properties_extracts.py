"""What a status answer means, against an oracle that was written on its own: adapters/status_polling/extracts.py."""

from typing import Any

from hypothesis import event, example, given
from hypothesis import strategies as st
from phr_refresh.adapters.status_polling.extracts import judge
from phr_refresh.statemachine.effects import AskStatus, StatusReport
from support.reference_extracts import Asked, Verdict, verdict
from support.reference_settings import examples
from support.samples import ADA, HOUR, NOON

Question = tuple[list[dict[str, Any]], tuple[str, ...], Asked]
TOLERANCE = 120_000
EXTRACTS = ("VPR", "Allergy", "ImagingStudy")
#: Milliseconds between the claim and the time of asking, and from the claim to the kick-off's answer.
ASKED = st.sampled_from([0, 1, 5_000, 10_199, 10_200, 10_201, 60_000, HOUR - 1]) | st.integers(0, HOUR)
ANSWERED = st.sampled_from([None, 0, 200, 200]) | st.integers(0, 20_000)
SKEWS = st.sampled_from([0, 0, 37 * 60_000, -2 * HOUR]) | st.integers(-3 * HOUR, 3 * HOUR)
SHAPES = ("settled", "any", "running", "worse")
LOAD_STATUSES = st.sampled_from(["OK", "OK", "ERROR", "error ", None, "LOADING", ""])


def times(asked: int) -> st.SearchStrategy[int | None]:
    """A time of a row, relative to the claim: mostly at an edge of what is ours, or a millisecond beside it."""
    edges = [edge + beside for edge in (-TOLERANCE, 0, asked, asked + TOLERANCE) for beside in (0, -1, 1)]
    return st.sampled_from([None, *edges, -HOUR]) | st.integers(-2 * HOUR, 2 * HOUR)


@st.composite
def rows(draw: st.DrawFn, asked: int, server_is_at: int) -> dict[str, Any]:
    """One row. Its three times are any, or as the upstream sets them: requested, then ended, well or not."""
    shape, beside, requested = draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2)), draw(times(asked))
    completed = succeeded = requested
    if shape == "any":
        completed, succeeded = draw(times(asked)), draw(times(asked))
    elif requested is not None:
        completed = requested - beside if shape == "running" else requested + 3 * beside
        succeeded = completed - beside if shape == "worse" else completed
    moments = {"lastRequested": requested, "lastCompleted": completed, "lastSuccessfulCompleted": succeeded}
    return {
        "extract": draw(st.sampled_from([*EXTRACTS, "Appointments"])),
        "stationNumber": "979",
        "loadStatus": draw(LOAD_STATUSES),
        **{name: None if at is None else server_is_at + at for name, at in moments.items()},
    }


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """An answer's rows, the wanted extracts, and what is known when it comes in."""
    asked, answered, skew = draw(ASKED), draw(ANSWERED), draw(SKEWS)
    found = draw(st.lists(rows(asked, NOON + skew), max_size=5))
    wanted = tuple(draw(st.lists(st.sampled_from(EXTRACTS), min_size=1, unique=True)))
    return found, wanted, Asked(NOON, None if answered is None else NOON + answered, NOON + asked, NOON + asked + skew)


def judged(found: list[dict[str, Any]], wanted: tuple[str, ...], asked: Asked) -> Verdict:
    body = {"retrievedDate": asked.retrieved, "facilityExtractStatusList": found}
    question = AskStatus(ADA, asked.claimed, asked.answered, asked.asked)
    report = judge(body, wanted=wanted, question=question, grace=asked.grace, tolerance=asked.tolerance)
    assert isinstance(report, StatusReport)
    extracts = tuple((item.name, item.state.value, item.succeeded_at) for item in report.extracts)
    return report.phase.value, extracts, report.as_of


def settled(at: int) -> dict[str, Any]:
    """A row of a load that was requested and ended well then."""
    moments = dict.fromkeys(("lastRequested", "lastCompleted", "lastSuccessfulCompleted"), at)
    return {"extract": "VPR", "stationNumber": "0", "loadStatus": "OK", **moments}


@given(questions())
@example(([], ("VPR",), Asked(NOON, NOON, NOON + HOUR, NOON + HOUR)))
@example(([settled(NOON - TOLERANCE)], ("VPR",), Asked(NOON, None, NOON + HOUR, NOON + HOUR)))
@example(([settled(NOON - HOUR)], ("VPR",), Asked(NOON, NOON, NOON + 10_000, NOON + 10_000)))
@example(([settled(NOON - HOUR)], ("VPR",), Asked(NOON, NOON, NOON + 9_999, NOON + 9_999)))
@examples(150)
def test_every_answer_means_what_the_oracle_says(question: Question) -> None:
    """Phase, each extract and `as_of` agree over any rows: many stations, nulls, times out of order, lost answers."""
    expected = verdict(*question)
    event(f"{expected[0]}, answer {'lost' if question[2].answered is None else 'known'}")
    assert expected == judged(*question)


@given(questions(), st.randoms(use_true_random=False))
@examples(40)
def test_the_order_of_rows_means_nothing(question: Question, random: Any) -> None:
    """The upstream's list is unordered: any other order of the same rows gives the same verdict."""
    found, wanted, asked = question
    shuffled = random.sample(found, len(found))
    assert judged(found, wanted, asked) == judged(shuffled, wanted, asked)


@given(questions(), st.integers(1, HOUR))
@examples(80)
def test_what_has_ended_within_the_grace_stays_ended(question: Question, later: int) -> None:
    """The same rows read again later never turn from an end back to in progress: time alone undoes no truth (R3)."""
    found, wanted, asked = question
    again = Asked(asked.claimed, asked.answered, asked.asked + later, asked.retrieved + later)
    phase, *ended = judged(found, wanted, asked)
    if phase != "in_progress":
        assert [phase, *ended] == [*judged(found, wanted, again)]
