"""A Django project in the process of the tests, with Django's own login, sessions, users and CSRF protection.

Users have names and no passwords. Each test overrides the setting PHR_REFRESH.
"""

import itertools
import secrets
from typing import Any

import django
from django.conf import settings
from django.test.utils import setup_test_environment

settings.configure(
    SECRET_KEY=secrets.token_hex(),
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "phr_refresh.django",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    AUTHENTICATION_BACKENDS=[f"{__name__}.AnybodyBackend"],
    LOGIN_REDIRECT_URL="/",
    LOGOUT_REDIRECT_URL="/",
    LOGGING_CONFIG=None,
)
django.setup(set_prefix=False)
setup_test_environment()

# These need the apps to be there.
from django import forms  # noqa: E402
from django.contrib.auth import authenticate, get_user_model  # noqa: E402
from django.contrib.auth.backends import ModelBackend  # noqa: E402
from django.contrib.auth.models import AnonymousUser  # noqa: E402, F401 - for tests to import
from django.contrib.auth.views import LoginView, LogoutView  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import include, path  # noqa: E402

SETTLED = ("complete", "stale")
_numbers = itertools.count(1)


class AnybodyBackend(ModelBackend):
    """Lets everybody in who gives a name."""

    def authenticate(self, request: Any, user: str = "", **_: object) -> Any:
        return get_user_model().objects.get_or_create(username=user)[0]


class NameForm(forms.Form):
    """What Django's LoginView wants of a form."""

    user = forms.CharField()

    def __init__(self, request: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._request = request

    def get_user(self) -> Any:
        return authenticate(self._request, **self.cleaned_data)


def csrf(request: Any) -> JsonResponse:
    """What a POST must carry."""
    return JsonResponse({"X-CSRFToken": get_token(request)})


urlpatterns = [
    path("csrf", csrf),
    path("login", LoginView.as_view(authentication_form=NameForm)),
    path("logout", LogoutView.as_view()),
    path("phr/", include("phr_refresh.django.urls")),
]
call_command("migrate", verbosity=0)


class Browser(Client):
    """Somebody's browser, and a user whom nobody else is."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.user = f"user-{next(_numbers)}"

    def log_in(self) -> int:
        """Log in by Django's own view: the status of its answer."""
        status: int = self.post("/login", {"user": self.user}).status_code
        return status

    def log_out(self) -> int:
        """Log out by Django's own view: the status of its answer."""
        status: int = self.post("/logout").status_code
        return status

    def settled(self) -> dict[str, Any]:
        """The status once the refresh that a login has started is over."""
        while (found := self.get("/phr/status", headers={"Prefer": "wait=5"}).json())["state"] not in SETTLED:
            pass
        return dict(found)
