"""A portal on Django that refreshes records at login: one page to log in, one with vital signs.

    pip install 'phr-refresh[django]'
    python examples/django/portal.py [--port 8000]

Its upstream is a simulator in this process, unless PHR_REFRESH_MHV_URL, PHR_REFRESH_FHIR_URL, PHR_REFRESH_APP_TOKEN and
PHR_REFRESH_AUTHORIZATION_KEY name another. The store is PHR_REFRESH_STORE, or a new SQLite file. Logins, sessions,
users and CSRF protection are Django's own; only passwords are left out. What phr-refresh adds is marked with its name.
"""

import argparse
import atexit
import secrets
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView
from phr_refresh import Patient

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.append(str(EXAMPLES))

from people import PEOPLE, settings_by

# Closed after what the app has opened: `atexit` goes backwards.
stack = ExitStack()
atexit.register(stack.close)
folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))


def patient_of(user: Any) -> Patient | None:
    """phr-refresh: which patient a user of the portal is; None for one who is no patient."""
    return PEOPLE.get(user.get_username())


settings.configure(
    SECRET_KEY=secrets.token_hex(),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "phr_refresh.django",  # phr-refresh: from here on logins and logouts drive it
    ],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    AUTHENTICATION_BACKENDS=[f"{__name__}.NoPasswords"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "portal.db")}},
    LOGIN_URL="/login",
    LOGIN_REDIRECT_URL="/records",
    LOGOUT_REDIRECT_URL="/login",
    # phr-refresh: in production `patient_of` alone, and the rest in the environment.
    PHR_REFRESH={"patient_of": patient_of, **settings_by(stack)},
)
django.setup(set_prefix=False)

# These need the apps to be there.
from django import forms
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.middleware.csrf import get_token


class NoPasswords(ModelBackend):
    """Lets the three people of the example in."""

    def authenticate(self, request: HttpRequest | None, user: str = "", **_: object) -> Any:
        """The user of that name."""
        return get_user_model().objects.get_or_create(username=user)[0] if user in PEOPLE else None


class LoginForm(forms.Form):
    """Who it is, without a password."""

    user = forms.ChoiceField(choices=[(name, name) for name in PEOPLE])

    def __init__(self, request: HttpRequest, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._request = request

    def get_user(self) -> Any:
        """The user, for Django to log in."""
        return authenticate(self._request, **self.cleaned_data)


def page(request: HttpRequest, name: str) -> HttpResponse:
    """One of the pages that the examples for all frameworks share."""
    token = get_token(request)
    template = Template((EXAMPLES / "pages" / name).read_text(encoding="utf-8"))
    filled = template.substitute(
        csrf=f'<input type="hidden" name="csrfmiddlewaretoken" value="{token}">',
        csrf_header="X-CSRFToken",
        csrf_token=token,
        user=escape(request.user.get_username()),
    )
    return HttpResponse(filled)


class Login(LoginView):
    """Django's own, with the page of the examples."""

    authentication_form = LoginForm

    def render_to_response(self, context: dict[str, Any], **_: object) -> HttpResponse:
        """The login page."""
        return page(self.request, "login.html")


@login_required
def records(request: HttpRequest) -> HttpResponse:
    """The page with the vital signs."""
    return page(request, "records.html")


urlpatterns = [
    path("", RedirectView.as_view(url="/records")),
    path("login", Login.as_view()),
    path("logout", LogoutView.as_view()),
    path("records", records),
    path("phr/", include("phr_refresh.django.urls")),  # phr-refresh: what the page's script asks
]


def main() -> None:
    """Serve the portal until it is interrupted, as `manage.py runserver` would."""
    parser = argparse.ArgumentParser(description="A portal on Django, with phr-refresh.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    call_command("migrate", verbosity=0)
    with ThreadedWSGIServer(("127.0.0.1", port), WSGIRequestHandler) as server:
        server.set_app(get_wsgi_application())
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
