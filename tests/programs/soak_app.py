"""The Celery app of the soak, for `celery -A soak_app`."""

from support.soak_host import SoakHost

app = SoakHost.from_env().app()
