"""phr-refresh in a portal on Flask: an extension with one settings block, `app.config["PHR_REFRESH"]` (`embedding`).

>>> from phr_refresh.flask import PhrRefreshFlask
>>> app.config["PHR_REFRESH"] = {"patient_of": "portal.patients.patient_of"}  # doctest: +SKIP
>>> phr = PhrRefreshFlask(app)  # doctest: +SKIP

With Flask-Login that is all: its signals drive login and logout. Otherwise the extension is given `user_of`; the view
that has just put a user into the session calls `phr.logged_in(user)`, the one that logs out `phr.logged_out(user)`.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from phr_refresh.adapters.login_hooks.flask import FlaskHost, UserOf, flask_login_user
from phr_refresh.adapters.login_hooks.hooks import deferred
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra
from phr_refresh.statemachine.outcomes import Receipt
from phr_refresh.statemachine.patient import Patient

from .cli.views import explanation_lines, sweep_lines
from .hosting import Embedding, Service
from .synchronous import PhrRefresh

try:
    import click
    from flask import Flask, current_app, has_app_context
except ModuleNotFoundError as error:
    raise MissingExtra("phr_refresh.flask", "flask") from error

__all__ = ["PhrRefreshFlask", "UserOf"]

_NAME: Final = "phr_refresh"


@dataclass(frozen=True, slots=True)
class _Running:
    """What one app has of this extension. `close` works once, and by itself when the app is gone."""

    refresher: PhrRefresh
    host: FlaskHost
    close: Callable[[], Any]


class PhrRefreshFlask:
    """The extension. One object serves any number of apps; what belongs to an app is in its `extensions`.

    Nothing is connected before the first login or request, so an app may be made before a server forks
    (``gunicorn --preload``). What is opened is closed when the process ends, or the app is gone.
    """

    def __init__(self, app: Flask | None = None, *, url_prefix: str = "/phr", user_of: UserOf | None = None) -> None:
        """`user_of` gives who is logged in, None for nobody; by default Flask-Login says so, and its signals are used.

        What it gives, `patient_of` of the settings block is asked about.
        """
        self._url_prefix = url_prefix
        self._user_of = user_of
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Serve `app`: endpoints, hooks and commands. Raises `ConfigurationError` that names the setting."""
        uses_flask_login = self._user_of is None
        if uses_flask_login and find_spec("flask_login") is None:
            raise _wrong("nothing says who is logged in", "install Flask-Login, or give user_of")
        service = Service.of(Embedding.of(app.config.get("PHR_REFRESH") or {}))
        host = FlaskHost(
            service.host,
            service.host_without_threads,
            service.hooks,
            patient_of=service.embedding.patient_of,
            user_of=self._user_of or flask_login_user,
        )
        app.register_blueprint(host.blueprint(), url_prefix=self._url_prefix)
        app.extensions[_NAME] = _Running(service.refresher, host, weakref.finalize(app, service.close))
        if uses_flask_login:
            host.connect(app)
        _add_commands(app, service.refresher)

    def logged_in(self, user: object) -> Receipt | None:
        """The login hook, once the session says who it is: see `Hooks.logged_in`. Never raises, never waits long."""
        running = _running()
        return deferred("login", "closed", LogObserver()) if running is None else running.host.logged_in(user)

    def logged_out(self, user: object) -> None:
        """The logout hook: see `Hooks.logged_out`."""
        running = _running()
        if running is None:
            deferred("logout", "closed", LogObserver())
        else:
            running.host.logged_out(user)

    def refresher(self) -> PhrRefresh:
        """What serves the current app. Raises `ConfigurationError` where there is none."""
        return _now().refresher

    def patient(self) -> Patient | None:
        """Who is logged in, None for nobody or nobody with records."""
        return _now().host.patient()

    def close(self) -> None:
        """Finish what is due for the current app, within a bounded time, and close it: for tests of the host."""
        _now().close()


def _running() -> _Running | None:
    return current_app.extensions.get(_NAME) if has_app_context() else None


def _now() -> _Running:
    running = _running()
    if running is None:
        raise _wrong("there is no current app that it serves", "call init_app, and use it within the app's context")
    return running


def _add_commands(app: Flask, refresher: PhrRefresh) -> None:
    @app.cli.command("phr-sweep")
    @click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=1), help="At most so many.")
    def sweep(limit: int) -> None:
        """Apply what is due for patients whom nobody asks about."""
        click.echo("\n".join(sweep_lines(refresher.sweep(limit))))

    @app.cli.command("phr-explain")
    @click.argument("user")
    def explain(user: str) -> None:
        """Explain the state of USER, by the user id that `patient_of` gives: why it is so, and what happens next."""
        click.echo("\n".join(explanation_lines(refresher.explain(user))))


def _wrong(problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("PhrRefreshFlask", problem, remedy)
