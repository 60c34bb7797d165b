"""The errors of phr-refresh, split by whose fault they are.

::

    PhrRefreshError
     |- CallerError              the embedding program gave or set something wrong
     |   |- ConfigurationError   a setting, secret or URL is missing or malformed
     |   |- InvalidPatient       an identifier of a patient is malformed
     |   |- UnknownPatient       no such user in the directory of patients
     |   |- NotEligible          the patient has no MHV account (rule R8)
     |   `- MissingExtra         an optional dependency is not installed
     |- EventRefused             the lifecycle does not allow this event now; nothing changed
     |- UpstreamError            the upstream did not give what was asked
     |   `- SessionUnavailable   no session could be had; try again at `retry_at`
     `- StoreError               the store did not give what was asked
         |- StoreUnavailable     it could not be reached, or did not answer in time
         `- RecordUnreadable     a stored record is corrupt or of a newer version; it is left as it is

Fields come first, the message is derived from them. No message ever holds an identifier of a patient,
a token or a key: whoever needs to know which patient is meant has the object at hand.
"""

from datetime import datetime
from typing import Any


class PhrRefreshError(Exception):
    """Base of every error that this library raises on purpose. It can be pickled, as workers in other processes do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[PhrRefreshError], args: tuple[Any, ...], fields: dict[str, Any]) -> PhrRefreshError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class CallerError(PhrRefreshError):
    """The embedding program asked for something that cannot be."""


class ConfigurationError(CallerError):
    """A setting is missing or malformed: `setting` names it, `problem` says what is wrong, `remedy` what to do."""

    def __init__(self, setting: str, problem: str, remedy: str) -> None:
        self.setting = setting
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{setting}: {problem}; {remedy}.")


class InvalidPatient(CallerError):
    """An identifier of a patient is malformed: `field` names it, `expected` gives its form. The value is not kept."""

    def __init__(self, field: str, expected: str) -> None:
        self.field = field
        self.expected = expected
        super().__init__(f"{field} is malformed: expected {expected}.")


class UnknownPatient(CallerError):
    """The directory of patients has no entry for the user that was asked for."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        super().__init__(f"no such user in {directory}; check the user id, or add the user there.")


class NotEligible(CallerError):
    """The patient has no MHV account, so there is no session and no refresh for them (rule R8)."""

    def __init__(self) -> None:
        super().__init__("the patient has no MHV correlation id, hence no MHV account: no session can be opened.")


class MissingExtra(CallerError):
    """An optional dependency is not installed: `extra` is what to install."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f"{feature} needs an optional dependency; run: pip install 'phr-refresh[{extra}]'.")


class EventRefused(PhrRefreshError):
    """The lifecycle refused an event. The record is unchanged.

    `event` and `state` are stored names; `guards` are the guards that said no, empty where the table
    refuses the event in that state whatever the record holds.
    """

    def __init__(self, event: str, state: str, guards: tuple[str, ...] = ()) -> None:
        self.event = event
        self.state = state
        self.guards = guards
        reason = f"not {' and not '.join(guards)}" if guards else "the table has no such move"
        super().__init__(f"{event} is refused in {state}: {reason}. Nothing was changed.")


class UpstreamError(PhrRefreshError):
    """The upstream did not give what was asked."""


class SessionUnavailable(UpstreamError):
    """No session could be had. `reason` is a code, `retry_at` (UTC) the time before which asking again is pointless."""

    def __init__(self, reason: str, retry_at: datetime | None) -> None:
        self.reason = reason
        self.retry_at = retry_at
        when = f"after {retry_at.isoformat(timespec='seconds')}" if retry_at else "later"
        super().__init__(f"no upstream session ({reason}); try again {when}.")


class StoreError(PhrRefreshError):
    """The store did not give what was asked."""


class StoreUnavailable(StoreError):
    """The store could not be reached or did not answer in time. Whether a commit took effect is then unknown."""

    def __init__(self, store: str, reason: str) -> None:
        self.store = store
        self.reason = reason
        super().__init__(f"the store {store} is unavailable ({reason}); check that it runs and can be reached.")


class RecordUnreadable(StoreError):
    """A stored record cannot be read. It is left as it is: nothing is ever reset silently."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"a stored record cannot be read: {problem}; {remedy}.")
