"""The example portal's `manage.py`, run in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "programs" / "manage_django.py"


class Manage:
    """Runs `manage.py` in a process of its own."""

    def __init__(self, store_url: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PHR_REFRESH_")}
        self._environ = kept | {
            "PHR_REFRESH_STORE": store_url,
            "PHR_REFRESH_MHV_URL": "https://mhv.example",
            "PHR_REFRESH_APP_TOKEN": "token",
            "PHR_REFRESH_AUTHORIZATION_KEY": "key",
        }

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *arguments],
            env=self._environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr
