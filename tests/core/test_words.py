"""The words that programs compare, that people search logs for, and that dashboards count by, spelled out."""

from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules

import pytest
from phr_refresh import statemachine
from phr_refresh.statemachine.effects import UPSTREAM_OVERLOADED, Phase, TokenChange
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.record import NEVER_SENT, TIMED_OUT, ExtractState, KickOff, State
from phr_refresh.statemachine.table import EventName, Kind

WORDS: dict[type[StrEnum], str] = {
    EventName: (
        "session_opened session_expired session_ended refresh_claimed refresh_accepted answer_lost progress_reported "
        "refresh_completed refresh_failed refresh_timed_out freshness_expired"
    ),
    ExtractState: "in_progress current failed",
    KickOff: "claimed accepted answer_lost",
    Kind: "moves stays ignored refused",
    Phase: "in_progress complete failed",
    ReceiptKind: "handed_over in_progress started joined fresh not_eligible deferred",
    State: "no_session session_created refreshing complete stale",
    TokenChange: "keep put drop",
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_a_word_stays_what_it_is(words: type[StrEnum]) -> None:
    """Whoever embeds the library may compare with it, so it is never renamed."""
    assert WORDS[words].split() == [word.value for word in words]
    assert WORDS[words].upper().split() == [word.name for word in words]


def test_no_words_are_left_out() -> None:
    """Every enumeration of the lifecycle is spelled out above."""
    names = [item.name for item in iter_modules(statemachine.__path__, f"{statemachine.__name__}.")]
    things = [thing for name in names for thing in vars(import_module(name)).values()]
    assert set(WORDS) == {thing for thing in things if isinstance(thing, type) and issubclass(thing, StrEnum)} - {
        StrEnum
    }


def test_reasons_are_words() -> None:
    """Those that the lifecycle itself gives for a failure."""
    assert ("timed_out", "never_sent", "upstream_overloaded") == (TIMED_OUT, NEVER_SENT, UPSTREAM_OVERLOADED)
