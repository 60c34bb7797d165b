"""phr-refresh in a portal on Django: an app with one settings block (`phr_refresh.embedding`) and one include.

::

    INSTALLED_APPS = [..., "phr_refresh.django"]
    PHR_REFRESH = {"patient_of": "portal.patients.patient_of"}

    urlpatterns = [..., path("phr/", include("phr_refresh.django.urls"))]

The signals of `django.contrib.auth` drive login and logout. `manage.py check --deploy` tells what is wrong with the
settings, `manage.py phr_explain USER_ID` why a patient's refresh stands where it stands.
"""

from typing import Any

from phr_refresh.adapters.login_hooks.hooks import deferred
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra
from phr_refresh.statemachine.patient import Patient

from ..synchronous import PhrRefresh

try:
    from django.apps import apps as installed_apps
    from django.http import HttpRequest
except ModuleNotFoundError as error:
    raise MissingExtra("phr_refresh.django", "django") from error

from .process import Process

__all__ = ["logged_in", "logged_out", "patient", "refresher"]


def refresher() -> PhrRefresh:
    """What serves this process, opened at the first use. It is closed when the process ends.

    Raises `ConfigurationError` and `MissingExtra` where the settings are wrong.
    """
    return this_process().opened().refresher


def patient(request: HttpRequest) -> Patient | None:
    """Who is logged in, None for nobody or nobody with records. Raises what `patient_of` raises."""
    return this_process().patient(request)


def logged_in(user: Any) -> None:
    """The login hook, for logins that send no signal: see `Hooks.logged_in`. Never raises, never waits long."""
    process = _installed()
    if process is None:
        deferred("login", "closed", LogObserver())
    else:
        process.logged_in(user)


def logged_out(user: Any) -> None:
    """The logout hook, for logouts that send no signal: see `Hooks.logged_out`."""
    process = _installed()
    if process is None:
        deferred("logout", "closed", LogObserver())
    else:
        process.logged_out(user)


def this_process() -> Process:
    """What this process has of the app. Raises `ConfigurationError` if the app is not installed."""
    process = _installed()
    if process is None:
        raise ConfigurationError("INSTALLED_APPS", "the app is not in it", 'add "phr_refresh.django"')
    return process


def _installed() -> Process | None:
    from .apps import PhrRefreshConfig

    # Not `is_installed`: Django may be under way to its start.
    configs = installed_apps.app_configs.values()
    return next((config.process for config in configs if isinstance(config, PhrRefreshConfig)), None)
