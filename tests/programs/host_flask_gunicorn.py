"""The portal of host_flask.py under gunicorn, made and used before it forks into two workers: see `support.hosts`."""

import sys
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from support import portal

sys.path.insert(0, str(Path(__file__).parent))
from host_flask import app, phr


class Preloading(BaseApplication):
    """What `gunicorn --preload --workers 2 --threads 4` does."""

    def load_config(self) -> None:
        """The settings."""
        settings = {"bind": "127.0.0.1:0", "workers": 2, "threads": 4, "preload_app": True, "when_ready": tell}
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The app, in the parent of all workers. The parent reads from the store, as a check of health would."""
        with app.app_context():
            phr.refresher().status("nobody-0")
        return app


def tell(server: Any) -> None:
    """Tell where it listens."""
    portal.listening(server.LISTENERS[0].sock.getsockname()[1])


Preloading().run()
