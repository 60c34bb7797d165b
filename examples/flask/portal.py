"""A portal on Flask that refreshes records at login: one page to log in, one with vital signs.

    pip install 'phr-refresh[flask]' flask-wtf
    python examples/flask/portal.py [--port 8000]

Flask-WTF is this portal's own choice, for CSRF protection; sessions and logins are Flask-Login's; only passwords are
left out. The upstream is a simulator in this process, unless PHR_REFRESH_MHV_URL, PHR_REFRESH_FHIR_URL,
PHR_REFRESH_APP_TOKEN and PHR_REFRESH_AUTHORIZATION_KEY name another. The store is PHR_REFRESH_STORE, or a new SQLite
file. What phr-refresh adds is marked with its name.
"""

import argparse
import secrets
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from flask import Flask, redirect, request
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_wtf.csrf import CSRFProtect, generate_csrf
from phr_refresh import Patient
from phr_refresh.flask import PhrRefreshFlask
from werkzeug.serving import make_server

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.append(str(EXAMPLES))

from people import PEOPLE, settings_by

logins = LoginManager()
csrf = CSRFProtect()
phr = PhrRefreshFlask()  # phr-refresh: the extension


class User(UserMixin):
    """A user of the portal."""

    def __init__(self, name: str) -> None:
        self.id = name


def patient_of(user: User) -> Patient | None:
    """phr-refresh: which patient a user of the portal is; None for one who is no patient."""
    return PEOPLE.get(user.id)


@logins.user_loader
def user_by(name: str) -> User | None:
    """The user of that name."""
    return User(name) if name in PEOPLE else None


def create_app(settings: Mapping[str, Any]) -> Flask:
    """The portal. `settings`: the block PHR_REFRESH without its `patient_of`; in production the environment has it."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY=secrets.token_hex(), SESSION_COOKIE_SAMESITE="Lax")
    app.config["PHR_REFRESH"] = {"patient_of": patient_of, **settings}  # phr-refresh: the settings
    logins.login_view = "show_login"
    for extension in (logins, csrf, phr):  # phr-refresh: from here on logins and logouts drive it; /phr/ is served
        extension.init_app(app)
    app.add_url_rule("/", view_func=lambda: redirect("/records"), endpoint="home")
    app.add_url_rule("/login", view_func=show_login)
    app.add_url_rule("/login", view_func=log_in, methods=["POST"])
    app.add_url_rule("/logout", view_func=log_out, methods=["POST"])
    app.add_url_rule("/records", view_func=records)
    return app


def show_login() -> str:
    """The login page."""
    return page("login.html", user="")


def log_in() -> ResponseReturnValue:
    """Let one of the three people of the example in."""
    user = user_by(request.form.get("user", ""))
    if user is not None:
        login_user(user)
    return redirect("/records", 303)


def log_out() -> ResponseReturnValue:
    """Let them go."""
    logout_user()
    return redirect("/login", 303)


@login_required
def records() -> str:
    """The page with the vital signs."""
    return page("records.html", user=current_user.id)


def page(name: str, *, user: str) -> str:
    """One of the pages that the examples for all frameworks share."""
    token = generate_csrf()
    return Template((EXAMPLES / "pages" / name).read_text(encoding="utf-8")).substitute(
        csrf=f'<input type="hidden" name="csrf_token" value="{token}">',
        csrf_header="X-CSRFToken",
        csrf_token=token,
        user=escape(user),
    )


def main() -> None:
    """Serve the portal on this machine alone, until it is interrupted."""
    parser = argparse.ArgumentParser(description="A portal on Flask, with phr-refresh.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        app = create_app(settings_by(stack))
        server = make_server("127.0.0.1", port, app, threaded=True)
        stack.callback(server.server_close)
        stack.enter_context(app.app_context())
        stack.callback(phr.close)  # phr-refresh: before the simulator goes; else the end of the process does it
        print(f"listening on http://127.0.0.1:{server.port}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
