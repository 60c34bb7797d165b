"""Logs: one structlog event per fact, with a keyed hash in place of the patient.

As a library should, this configures nothing. Where the host has configured structlog, its processors apply; where it
has not, events go to the standard library's logger "phr_refresh", whose handlers and levels are the host's.
"""

import logging
import secrets
from hashlib import blake2b
from typing import Any

import structlog

from ..statemachine.facts import Fact
from ..statemachine.patient import UserKey
from .redaction import redact

PREFIX = "phr_refresh."


class LogObserver:
    """Logs each fact as `phr_refresh.<name>`: warnings at WARNING, everything else at INFO, measurements not at all.

    `pseudonym_key` makes the pseudonyms of one patient the same in all processes that share it. Without one each
    process draws its own, so that events of different processes cannot be joined.
    """

    def __init__(self, pseudonym_key: bytes | None = None) -> None:
        self._key = blake2b(pseudonym_key or secrets.token_bytes(32)).digest()

    def pseudonym(self, key: UserKey) -> str:
        """What logs call the patient: 12 hex digits."""
        return blake2b(key.encode(), digest_size=6, key=self._key).hexdigest()

    def __call__(self, fact: Fact) -> None:
        """Log `fact`. The patient's store key itself is never logged."""
        if fact.is_measurement:
            return
        values: dict[str, Any] = {}
        if fact.key is not None:
            values["patient"] = self.pseudonym(fact.key)
        if fact.source is not None:
            values |= {"from_state": fact.source, "to_state": fact.target}
        for name, value in fact.details.items():
            values[name] = redact(value) if isinstance(value, str) else value
        logger = _logger()
        # Not `log(level, ...)`: not every logger that a host may configure has it.
        (logger.warning if fact.is_warning else logger.info)(PREFIX + fact.name, **values)


def _logger() -> Any:
    if structlog.is_configured():
        return structlog.get_logger("phr_refresh")
    return structlog.wrap_logger(
        logging.getLogger("phr_refresh"),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs, _as_text],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _as_text(_logger: Any, _method: str, event: Any) -> Any:
    """Append the values to the message: a plain formatter shows nothing of `extra`."""
    values = " ".join(f"{name}={value}" for name, value in event.get("extra", {}).items())
    return {**event, "msg": f"{event['msg']} {values}".rstrip()}
