"""The generated documents are what the table and the flows say now."""

from pathlib import Path

from phr_refresh.drawing import diagrams
from phr_refresh.statemachine.record import State
from phr_refresh.statemachine.table import TABLE, Kind


def test_the_committed_documents_are_up_to_date() -> None:
    """What lies in diagrams/ is what would be written now."""
    assert [] == diagrams.drifted(Path(__file__).parents[2] / "diagrams")


def test_the_state_diagram_shows_every_move() -> None:
    """Each move of the table is an arrow between ids without hyphens; each state has its label."""
    drawn = diagrams.documents()["lifecycle.mmd"]
    for rule in TABLE:
        if rule.kind is Kind.MOVES:
            arrow = f"    {rule.source.value} --> {rule.target.value} : "
            assert any(line.startswith(arrow) and rule.event.value in line for line in drawn.splitlines())
    assert [] == [state for state in State if f"    {state.value} : {state.label}" not in drawn.splitlines()]


def test_the_login_sequence_has_the_store_the_window_and_the_session_in_it() -> None:
    """The three open points of the source document are drawn: the store, the one-hour rule, the session call."""
    drawn = diagrams.documents()["login.mmd"]
    assert 1 == drawn.count("PHR: POST refresh")
    assert 1 == drawn.count("MHV: create a session")
    assert drawn.index("window of one hour") < drawn.index("Login-->>Browser: fresh")
    assert drawn.index("commit: session_opened, refresh_claimed, token") < drawn.index("PHR: POST refresh")


def test_the_session_sequence_shows_one_creation_for_two_callers() -> None:
    """Of two requests that need a session at once, one creates it and the other waits and gets the same."""
    drawn = diagrams.documents()["session.mmd"]
    assert 1 == drawn.count("MHV: create a session")
    assert 2 == drawn.count("Login-->>Browser: token")
    assert 1 == drawn.count("wait for the session that another is creating")
