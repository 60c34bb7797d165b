"""The error tree: whose fault, which words, and no identifier."""

import pickle
from datetime import UTC, datetime

import pytest
from phr_refresh.statemachine import errors
from phr_refresh.statemachine.errors import (
    CallerError,
    ConfigurationError,
    EventRefused,
    InvalidPatient,
    MissingExtra,
    NotEligible,
    PhrRefreshError,
    RecordUnreadable,
    SessionUnavailable,
    StoreError,
    StoreUnavailable,
    UnknownPatient,
    UpstreamError,
)

SAMPLES: list[tuple[PhrRefreshError, type[PhrRefreshError], str]] = [
    (ConfigurationError("A.b", "it is odd", "make it even"), CallerError, "A.b: it is odd; make it even."),
    (InvalidPatient("icn", "a form"), CallerError, "icn is malformed: expected a form."),
    (
        UnknownPatient("the directory"),
        CallerError,
        "no such user in the directory; check the user id, or add the user there.",
    ),
    (
        NotEligible(),
        CallerError,
        "the patient has no MHV correlation id, hence no MHV account: no session can be opened.",
    ),
    (
        MissingExtra("sealing", "sealed"),
        CallerError,
        "sealing needs an optional dependency; run: pip install 'phr-refresh[sealed]'.",
    ),
    (
        EventRefused("e", "s", ("a", "b")),
        PhrRefreshError,
        "e is refused in s: not a and not b. Nothing was changed.",
    ),
    (EventRefused("e", "s"), PhrRefreshError, "e is refused in s: the table has no such move. Nothing was changed."),
    (
        SessionUnavailable("http_500", datetime(2030, 1, 1, microsecond=999_000, tzinfo=UTC)),
        UpstreamError,
        "no upstream session (http_500); try again after 2030-01-01T00:00:00+00:00.",
    ),
    (SessionUnavailable("logged_out", None), UpstreamError, "no upstream session (logged_out); try again later."),
    (
        StoreUnavailable("redis", "timed_out"),
        StoreError,
        "the store redis is unavailable (timed_out); check that it runs and can be reached.",
    ),
    (RecordUnreadable("it is torn", "mend it"), StoreError, "a stored record cannot be read: it is torn; mend it."),
]


@pytest.mark.parametrize(("error", "base", "text"), SAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_each_error_says_what_to_do(error: PhrRefreshError, base: type[PhrRefreshError], text: str) -> None:
    """The message is derived from the fields, and the error is its branch's."""
    assert text == str(error)
    assert isinstance(error, base)
    assert isinstance(error, PhrRefreshError)


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (ConfigurationError("A.b", "odd", "even it"), {"setting": "A.b", "problem": "odd", "remedy": "even it"}),
        (InvalidPatient("icn", "a form"), {"field": "icn", "expected": "a form"}),
        (UnknownPatient("the directory"), {"directory": "the directory"}),
        (NotEligible(), {}),
        (MissingExtra("sealing", "sealed"), {"feature": "sealing", "extra": "sealed"}),
        (EventRefused("e", "s", ("a",)), {"event": "e", "state": "s", "guards": ("a",)}),
        (SessionUnavailable("http_500", None), {"reason": "http_500", "retry_at": None}),
        (StoreUnavailable("redis", "timed_out"), {"store": "redis", "reason": "timed_out"}),
        (RecordUnreadable("torn", "mend it"), {"problem": "torn", "remedy": "mend it"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_programs_read_fields_and_not_the_message(error: PhrRefreshError, fields: dict[str, object]) -> None:
    """All that the message says is a field of its own."""
    assert fields == vars(error)


def test_no_error_is_left_out() -> None:
    """Every leaf of the tree is among the samples."""
    classes = {item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, PhrRefreshError)}
    leaves = {item for item in classes if not item.__subclasses__()}
    assert leaves == {type(error) for error, _, _ in SAMPLES}


def test_the_docstring_draws_the_tree() -> None:
    """Every error of the module is in its drawing."""
    for name, item in vars(errors).items():
        if isinstance(item, type) and issubclass(item, Exception):
            assert name in errors.__doc__


@pytest.mark.parametrize("error", [error for error, _, _ in SAMPLES], ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: PhrRefreshError) -> None:
    """Errors cross process borders, as those of worker pools do, with fields and message."""
    other = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error), vars(error)) == (type(other), str(other), vars(other))
