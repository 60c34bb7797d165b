"""The soak, for two minutes: nothing that is promised breaks while processes are killed all the time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from phr_refresh import State
from phr_refresh.statemachine.record import Failure, RefreshRecord
from support.soak_checks import violations
from support.soak_host import WINDOW_SECONDS

#: Set it lower while you work on something; the program itself runs for as long as you tell it.
SECONDS = float(os.environ.get("PHR_REFRESH_SOAK_SECONDS", "120"))
PROGRAM = Path(__file__).parents[1] / "programs" / "soak.py"


@pytest.mark.once
def test_nothing_breaks_while_everything_is_killed() -> None:
    """Kick-offs per patient and window, deadlines, completions, receipts and the history of the store all hold."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--seconds", str(SECONDS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROGRAM.parent.parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 180,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert [] == found["violations"]
    assert 0 == done.returncode
    # It did happen: somebody was killed, refreshes ended, callers were answered.
    assert sum(found["killed"].values()) > 0
    assert found["recorded_as_complete"] > 0
    assert found["callers"]["logins"] > 0


def seen(*kick_offs: int, fed_at: int | None = None, simultaneous: int = 0) -> dict[str, Any]:
    """What the upstream saw of one patient."""
    return {"kick_offs": list(kick_offs), "fed_at": fed_at, "simultaneous": simultaneous}


def told(refresh_id: str, claimed_at: int, *, began: float = 0, kind: str = "in_progress") -> dict[str, Any]:
    """A receipt whose deadline is ten seconds after its claim."""
    line = {"user": "a", "verb": "login", "kind": kind, "refresh_id": refresh_id, "claimed_at": claimed_at}
    return line | {"deadline_at": claimed_at + 10_000, "began": began}


TIMED_OUT = RefreshRecord(State.STALE, refresh_id="r1", claimed_at=900, failure=Failure(code="timed_out", at=13_000))
DONE = TIMED_OUT._replace(failure=None, completed_at=2_000)
WINDOW = WINDOW_SECONDS * 1000

BROKEN = {
    "two kick-offs in one window": ("R1", {"a": seen(1_000, 1_000 + WINDOW - 1)}, [], {"a": DONE}),
    "two sessions at once": ("R2", {"a": seen(simultaneous=1)}, [], {"a": RefreshRecord()}),
    "two ids for one claim": ("receipts", {}, [told("r1", 900), told("r2", 900)], {}),
    "two claims with one id": ("receipts", {}, [told("r1", 900), told("r1", 950)], {}),
    "under way after the deadline": ("R4", {}, [told("r1", 900, began=10.901)], {}),
    "still refreshing": ("R4", {}, [], {"a": TIMED_OUT._replace(state=State.REFRESHING)}),
    "a completion lost": ("lost", {"a": seen(1_000, fed_at=2_000)}, [], {"a": TIMED_OUT}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_found(case: str) -> None:
    """Each is one sentence that begins with the rule."""
    rule, truth, receipts, records = BROKEN[case]
    assert [rule] == [sentence.partition(":")[0] for sentence in violations(truth, receipts, records)]


def test_what_holds_is_no_violation() -> None:
    """Two windows, receipts that agree, a refresh that the upstream never ended, and one that was never sent."""
    truth = {"a": seen(1_000, 1_000 + WINDOW, fed_at=500), "b": seen()}
    receipts = [told("r1", 900), told("r1", 900, began=10.9), told("r2", 900 + WINDOW, kind="fresh", began=99)]
    assert [] == list(violations(truth, receipts, {"a": TIMED_OUT, "b": TIMED_OUT}))
