"""The endpoints and hooks of hosts on Flask: what Flask gives in, what the contract says out; Flask-Login's signals.

The host's own protection against cross-site requests, such as Flask-WTF's `CSRFProtect`, covers the endpoints, too.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from ...statemachine.errors import ConfigurationError, MissingExtra
from ...statemachine.outcomes import Receipt
from ...statemachine.patient import Patient
from ..browser import Host, HttpRequest, HttpResponse, is_public
from .hooks import Hooks

try:
    from flask import Blueprint, Flask, Response, current_app, request
except ModuleNotFoundError as error:
    raise MissingExtra("the adapter for Flask", "flask") from error

#: Gives who is logged in, by the session of the request that is being served; None for nobody.
UserOf = Callable[[], Any]
#: Gives the patient that a user is; None for a user who is none.
PatientOf = Callable[[Any], Patient | None]

# All of them: what is not allowed, the contract says, as a problem.
_METHODS: Final = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"]


def flask_login_user() -> Any:
    """Who is logged in by Flask-Login, None for nobody."""
    from flask_login import current_user

    if not hasattr(current_app, "login_manager"):
        remedy = "call its init_app for this app, or give user_of"
        raise ConfigurationError("LoginManager", "Flask-Login does not know this app", remedy)
    return current_user._get_current_object() if current_user.is_authenticated else None


@dataclass(frozen=True, eq=False)
class FlaskHost:
    """One app's endpoints and hooks.

    `host_without_threads` serves where a server has one request at a time in a process: there, who waits would keep
    everybody else waiting, logins included. It should have no places.
    """

    host: Host
    host_without_threads: Host
    hooks: Hooks
    _: KW_ONLY
    patient_of: PatientOf
    user_of: UserOf

    def patient(self) -> Patient | None:
        """The patient whose session the request carries. Raises what the host's `patient_of` raises."""
        user = self.user_of()
        return None if user is None else self.patient_of(user)

    def logged_in(self, user: object) -> Receipt | None:
        """See `Hooks.logged_in`."""
        return self.hooks.logged_in(lambda: self.patient_of(user))

    def logged_out(self, user: object) -> None:
        """See `Hooks.logged_out`."""
        self.hooks.logged_out(lambda: self.patient_of(user))

    def connect(self, app: Flask) -> None:
        """Log in and out whom Flask-Login does, in `app`, for as long as this object lives."""
        import flask_login

        flask_login.user_logged_in.connect(self._user_logged_in, sender=app)
        # A browser that comes back with a "remember me" cookie: the login view is not asked, and it is a login.
        flask_login.user_loaded_from_cookie.connect(self._user_logged_in, sender=app)
        flask_login.user_logged_out.connect(self._user_logged_out, sender=app)

    def _user_logged_in(self, app: Flask, user: Any) -> None:
        self.logged_in(user)

    def _user_logged_out(self, app: Flask, user: Any) -> None:
        # `logout_user` tells so of nobody, too.
        if user is not None and user.is_authenticated:
            self.logged_out(user)

    def blueprint(self) -> Blueprint:
        """The endpoints, for a prefix of the host's choice."""
        blueprint = Blueprint("phr_refresh", __name__)
        for rule in ("/", "/<path:path>"):
            blueprint.add_url_rule(rule, "answer", self._answer, methods=_METHODS, provide_automatic_options=False)
        return blueprint

    def _answer(self, path: str = "") -> Response:
        user = None if is_public(path) else self.user_of()
        patient = None if user is None else self.patient_of(user)
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = HttpRequest(request.method, path, patient, is_logged_in=user is not None, headers=headers)
        host = self.host if request.is_multithread else self.host_without_threads
        answer = host.answer(asked)
        # A list: of bytes alone Flask would set the Content-Length, which that of a HEAD's body is not.
        body = [answer.body] if isinstance(answer, HttpResponse) else answer.chunks
        response = Response(body, answer.status, list(answer.headers))
        if not any(name.lower() == "content-type" for name, _ in answer.headers):
            # Flask's default; there is nothing of any type here.
            del response.headers["Content-Type"]
        return response
