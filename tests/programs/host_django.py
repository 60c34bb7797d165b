"""A portal on Django with its own login, sessions, users and CSRF protection: see `support.hosts`.

`application` and `asgi_application` are for other servers: ``gunicorn --pythonpath tests/programs host_django``.
"""

import os
import secrets
import tempfile
from pathlib import Path
from threading import local

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import include, path
from support import portal

#: The request that each thread serves.
served = local()


def remember_request(get_response):
    """Middleware: so that `patient_of` can ask the session who is logged in, and a test which process answered."""

    def middleware(request):
        served.request = request
        response = get_response(request)
        response["X-Process"] = str(os.getpid())
        return response

    return middleware


def patient_of(user):
    """The patient that a user is."""
    is_logged_in = served.request.session.get(SESSION_KEY) == str(user.pk)
    return portal.patient_of(user.get_username(), is_logged_in=is_logged_in)


portal.prepare()
folder = tempfile.TemporaryDirectory()
settings.configure(
    SECRET_KEY=secrets.token_hex(),
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(folder.name) / "portal.db"),
            "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "phr_refresh.django",
    ],
    MIDDLEWARE=[
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        f"{__name__}.remember_request",
    ],
    AUTHENTICATION_BACKENDS=[f"{__name__}.AnybodyBackend"],
    LOGIN_REDIRECT_URL="/csrf",
    LOGOUT_REDIRECT_URL="/csrf",
    LOGGING_CONFIG=None,
    PHR_REFRESH=portal.block(patient_of),
)
django.setup(set_prefix=False)

from django import forms  # noqa: E402 - as everything below, once the apps are there
from django.contrib.auth import SESSION_KEY, authenticate, get_user_model  # noqa: E402
from django.contrib.auth.backends import ModelBackend  # noqa: E402
from django.contrib.auth.views import LoginView, LogoutView  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402


class AnybodyBackend(ModelBackend):
    """Lets everybody in who gives a name."""

    def authenticate(self, request, user=None, **_):
        return get_user_model().objects.get_or_create(username=user)[0]


class NameForm(forms.Form):
    """What Django's LoginView wants of a form."""

    user = forms.CharField()

    def __init__(self, request, **arguments):
        super().__init__(**arguments)
        self._request = request

    def get_user(self):
        return authenticate(self._request, **self.cleaned_data)


def csrf(request):
    """What a POST must carry."""
    return JsonResponse({"headers": {"X-CSRFToken": get_token(request)}})


urlpatterns = [
    path("login", LoginView.as_view(authentication_form=NameForm)),
    path("logout", LogoutView.as_view()),
    path("csrf", csrf),
    path("phr/", include("phr_refresh.django.urls")),
]

call_command("migrate", verbosity=0)
application = get_wsgi_application()
asgi_application = get_asgi_application()

if __name__ == "__main__":
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(application)
    portal.listening(server.server_port)
    server.serve_forever()
