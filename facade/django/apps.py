"""The app's configuration: what is connected when Django starts. Nothing is opened then."""

from types import ModuleType

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed
from phr_refresh.adapters.login_hooks.django import connect

from .checks import TAG, check_deployment, check_settings
from .process import Process
from .settings import NAME


class PhrRefreshConfig(AppConfig):
    """The app `phr_refresh`."""

    name = "phr_refresh.django"
    label = "phr_refresh"
    verbose_name = "PHR refresh"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        super().__init__(app_name, app_module)
        self.process = Process()

    def ready(self) -> None:
        """Listen to logins and logouts, and register the checks."""
        connect(logged_in=self.process.logged_in, logged_out=self.process.logged_out)
        setting_changed.connect(self._on_setting_changed, dispatch_uid="phr_refresh.setting_changed")
        checks.register(check_settings, TAG, checks.Tags.security)
        checks.register(check_deployment, TAG, checks.Tags.security, deploy=True)

    def _on_setting_changed(self, *, setting: str, **_: object) -> None:
        """Tests override settings: what comes then is opened by the new ones."""
        if setting == NAME:
            self.process.close()
