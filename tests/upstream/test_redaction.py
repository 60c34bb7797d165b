"""What foreign loggers may not show: adapters/redaction.py."""

import logging
import uuid

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.adapters.redaction import RedactingFilter, guard_loggers, redact, safe_error

ICN = "1012345678V123456"
TOKEN = jwt.encode({"subjectId": "4711", "exp": 1_900_000_000}, "k" * 32, algorithm="HS256")
SHOWING = {
    "an ICN": f"GET /v2/phrmgr/status/{ICN} HTTP/1.1",
    "an ICN in small letters": f"icn={ICN.lower()}",
    "a percent-encoded V": "/status/1012345678%56123456",
    "a percent-encoded v, twice": "/status/1012345678%2576123456",
    "percent-encoded digits": "/status/" + "".join(f"%{ord(c):02x}" for c in ICN),
    "an ICN inside a word": f"x9{ICN}9x",
    "a JWT": f"token {TOKEN}!",
    "a bearer value": "Authorization: Bearer s3cr3t-value",
    "a bearer value in a dict": "{'Authorization': 'bearer s3cr3t-value'}",
    "a key header": "X-Authorization-Key: s3cr3t-value",
    "a key header in a dict": "{'x-api-key': 's3cr3t-value', 'a': 1}",
    "a key header as bytes": "(b'x-api-key', b's3cr3t-value')",
    "an app token": '{"appToken": "s3cr3t-value"}',
    "a FHIR search": "GET /Patient?identifier=s3cr3t-value&x=1",
    "a FHIR patient": "GET /Observation?patient=s3cr3t-value",
}


def leaks(text):
    found = (ICN, ICN.lower(), TOKEN, TOKEN.split(".")[1], "s3cr3t", "123456", "%31%30")
    return [word for word in found if word in text]


@pytest.mark.parametrize("text", SHOWING.values(), ids=SHOWING)
def test_what_is_sensitive_is_withheld(text):
    """Each form of an identifier, token or key is replaced."""
    clean = redact(text)
    assert [] == leaks(clean)
    assert "<withheld>" in clean


@pytest.mark.parametrize(
    "text",
    ["", "Starting new HTTPS connection (1): host.example:443", "took 1012345678 ms", "eyJ", "the bearer", "v123456"],
)
def test_the_rest_stays(text):
    """A text with nothing sensitive in it is left as it is."""
    assert text == redact(text)


def test_secrets_are_withheld_by_value():
    """A secret of no particular form is withheld where its value is given, the longest first."""
    assert "a <withheld> b <withheld>" == redact("a hunter2x b hunter2", ["hunter2", "hunter2x"])


@given(before=st.text(max_size=20), after=st.text(max_size=20), digits=st.from_regex(r"\A[0-9]{10}V[0-9]{6}\Z"))
def test_no_surroundings_hide_an_icn(before, after, digits):
    """Whatever stands around an ICN, it is withheld."""
    assert digits not in redact(before + digits + after)


def test_redacting_twice_changes_nothing_more():
    """What was redacted stays as it is."""
    once = [redact(text) for text in SHOWING.values()]
    assert once == [redact(text) for text in once]


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []
        self.texts = []

    def emit(self, record):
        self.records.append(record)
        self.texts.append(self.format(record))


@pytest.fixture
def logger():
    """A logger of its own with a handler that keeps what reaches it."""
    logger = logging.getLogger(f"foreign.{uuid.uuid4()}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.kept = Kept()
    logger.addHandler(logger.kept)
    return logger


def test_a_guarded_logger_shows_neither_message_nor_arguments(logger):
    """Message, arguments and extra fields of a record reach no handler unredacted."""
    guard_loggers([logger.name])
    logger.debug('%s "%s %s"', "https://host", "GET", f"/status/{ICN}", extra={"url": f"/{ICN}"})
    assert ['https://host "GET /status/<withheld>"'] == logger.kept.texts
    assert [] == leaks(str(vars(logger.kept.records[0])))


def test_a_guarded_logger_shows_no_identifier_in_a_traceback(logger):
    """An exception's text, and those of its causes, are redacted in the rendering and gone from the record."""
    guard_loggers([logger.name], secrets=["hunter2"])
    try:
        try:
            raise OSError(f"no route to /status/{ICN}")
        except OSError as error:
            raise ValueError("key hunter2") from error
    except ValueError:
        logger.exception("it failed")
    assert [] == [word for word in (ICN, "hunter2") if word in logger.kept.texts[0]]
    assert "ValueError: key <withheld>" in logger.kept.texts[0]
    assert logger.kept.records[0].exc_info is None


def test_a_harmless_traceback_is_left_alone(logger):
    """An exception with nothing sensitive in it stays with the record."""
    guard_loggers([logger.name])
    try:
        raise ValueError("harmless")
    except ValueError:
        logger.exception("it failed")
    assert ValueError is logger.kept.records[0].exc_info[0]


def test_a_record_that_cannot_be_rendered_is_not_passed_on_raw(logger):
    """A record whose arguments do not fit shows none of them."""
    guard_loggers([logger.name])
    logger.debug("%d %d", ICN)
    assert [f"<a record of {logger.name} that cannot be rendered>"] == logger.kept.texts


def test_guarding_twice_adds_secrets_and_no_second_filter(logger):
    """Guarding again teaches the filter that is there; its repr shows none of the secrets."""
    guard_loggers([logger.name], secrets=["hunter2"])
    guard_loggers([logger.name], secrets=["hunter3", "abc"])
    logger.debug("hunter2 hunter3 abc")
    assert ["<withheld> <withheld> abc"] == logger.kept.texts
    assert ["RedactingFilter(<2 secrets withheld>)"] == [repr(item) for item in logger.filters]


def test_the_filter_serves_a_handler_too(logger):
    """On a handler, the filter guards whatever comes there, from any logger."""
    logger.kept.addFilter(RedactingFilter())
    logger.info({"icn": ICN})
    assert ["{'icn': '<withheld>'}"] == logger.kept.texts


def test_a_safe_error_names_types_and_a_redacted_text():
    """An error is told by its type, its causes' types, and its redacted text."""
    error = ValueError(f"for {ICN}")
    error.__cause__ = OSError(ICN)
    assert "ValueError <- OSError: for <withheld>" == safe_error(error)


def test_a_safe_error_ends():
    """A chain that goes in circles and a text that cannot be had are told none the less."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    error = Mute()
    error.__context__ = KeyError()
    error.__context__.__context__ = error
    assert "Mute <- KeyError: <no text>" == safe_error(error)
    assert len(safe_error(ValueError("x" * 10_000))) < 600
