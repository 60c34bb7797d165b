"""A login service under gunicorn that forks into two workers, whose metrics any serves: see `test_metrics_processes`.

`/login/<user>` answers with the process that took it, `/metrics` with what Prometheus scrapes.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from gunicorn.app.base import BaseApplication
from phr_refresh import Patient, PhrRefresh, Policy
from prometheus_client import CollectorRegistry, make_wsgi_app, multiprocess
from support import portal

registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
metrics = make_wsgi_app(registry)


class Service(BaseApplication):
    """What `gunicorn --preload --workers 2 --threads 4` does."""

    def load_config(self) -> None:
        """The settings."""
        settings = {"bind": "127.0.0.1:0", "workers": 2, "threads": 4, "preload_app": True, "when_ready": tell}
        for name, value in (settings | {"child_exit": forget}).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The app, made before the workers are."""
        phr = PhrRefresh.from_env(policy=Policy(login_budget=timedelta(seconds=30)))

        def app(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                return metrics(environ, start)
            user = path.rpartition("/")[2]
            phr.login(Patient(user, portal.icn_of(user), portal.correlation_id_of(user)))
            start("200 OK", [])
            return [str(os.getpid()).encode()]

        return app


def tell(server: Any) -> None:
    """Tell where it listens."""
    portal.listening(server.LISTENERS[0].sock.getsockname()[1])


def forget(server: Any, worker: Any) -> None:
    """Leave the gauges of a worker that has ended out of the sum."""
    multiprocess.mark_process_dead(worker.pid)


Service().run()
