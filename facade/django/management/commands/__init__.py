"""`phr_doctor`, `phr_explain` and `phr_sweep`. Exit codes: 0 done, 1 it failed, 2 usage or settings."""

import json
from collections.abc import Callable
from typing import TypeVar

from django.core.management.base import CommandError
from phr_refresh.statemachine.errors import CallerError, MissingExtra, PhrRefreshError

from ....cli.views import as_json
from ....synchronous import PhrRefresh
from ... import refresher

T = TypeVar("T")


def shown(ask: Callable[[PhrRefresh], T], lines: Callable[[T], list[str]], *, json_wanted: bool) -> str:
    """What `ask` answers, as text or as one JSON object. Raises `CommandError`."""
    try:
        answer = ask(refresher())
    except PhrRefreshError as error:
        is_usage = isinstance(error, CallerError) and not isinstance(error, MissingExtra)
        raise CommandError(str(error), returncode=2 if is_usage else 1) from error
    return json.dumps(as_json(answer), indent=2) if json_wanted else "\n".join(lines(answer))
