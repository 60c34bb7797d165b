"""Hosts under test: each a program of its own that serves real HTTP, and a browser that logs in there.

To add a host write `tests/support/host_<name>.py` with `HOST = HostUnderTest(...)`, and a program
`tests/programs/host_<name>.py`, which is run without arguments and

- calls `support.portal.prepare()`, and embeds phr-refresh by `support.portal.block(patient_of)`, mounted at /phr/. Its
  `patient_of(user)` returns `support.portal.patient_of(name, is_logged_in=...)`, where the framework itself is asked
  whether the user is logged in at this moment. Store and upstream come from the environment (`environment`).
- listens on a free port of 127.0.0.1, takes requests side by side, and then calls `support.portal.listening(port)`.
- serves `POST /login` (form field `user`, any name; the framework's real login; answers 2xx or 3xx), `POST /logout`,
  and `GET /csrf`: JSON `{"headers": {...}}`, the headers that the framework's CSRF protection asks of a POST in this
  session. That may be an empty object.
- ends on SIGTERM.
"""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import requests
from phr_refresh.adapters.simulator import Simulator

TESTS = Path(__file__).resolve().parent.parent
#: For a program to start, and for any answer: far more than either takes.
PATIENCE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class HostUnderTest:
    """A host. `modules`: what its program imports. `refused_without_csrf`: the status of a POST of another site's page.

    That is None where the host has no CSRF protection, but a cookie that does not come with such a POST.
    """

    name: str
    modules: tuple[str, ...]
    refused_without_csrf: int | None = None

    @property
    def program(self) -> Path:
        """The program that serves it."""
        return TESTS / "programs" / f"host_{self.name}.py"

    @property
    def missing(self) -> list[str]:
        """The modules that are not installed here."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    def start(self, environ: dict[str, str]) -> "RunningHost":
        """Run the program; `url` waits for it to listen. `environ`: see `environment`."""
        return RunningHost(self, environ)


def environment(simulator: Simulator, store_url: str) -> dict[str, str]:
    """What a host's process needs to know."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PHR_REFRESH_STORE": store_url,
        "PHR_REFRESH_MHV_URL": simulator.url,
        "PHR_REFRESH_FHIR_URL": f"{simulator.url}/fhir",
        "PHR_REFRESH_APP_TOKEN": simulator.app_token,
        "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
    }


class RunningHost:
    """A host's process."""

    def __init__(self, host: HostUnderTest, environ: dict[str, str]) -> None:
        self.host = host
        self._log = TemporaryFile()  # noqa: SIM115 - `close` closes it
        command = [sys.executable, str(host.program)]
        self._process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end. Waits until it does."""
        with self._news:
            self._news.wait_for(lambda: self._printed("listening on ") or self._has_ended, PATIENCE_SECONDS)
            found = self._printed("listening on ")
        assert found, f"{self.host.name} did not start:\n{self.log()}"
        return found[0]

    def journal(self, user: str) -> list[str]:
        """Whether `user` was logged in at each call of `patient_of` for them: "True" or "False". Waits for one."""
        with self._news:
            self._news.wait_for(lambda: self._printed(f"journal {user} ") or self._has_ended, PATIENCE_SECONDS)
            return self._printed(f"journal {user} ")

    def _printed(self, prefix: str) -> list[str]:
        return [line.removeprefix(prefix) for line in self._lines if line.startswith(prefix)]

    def log(self) -> str:
        """All that it has logged so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def close(self) -> None:
        """Have it end, and wait for that."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


class Browser:
    """Somebody's browser at a host: keeps cookies, and sends with a POST what the host's CSRF protection asks for."""

    def __init__(self, host: RunningHost) -> None:
        self._url = host.url
        self._session = requests.Session()
        # Proxies and credentials of the machine are none of this browser's.
        self._session.trust_env = False

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def log_in(self, user: str) -> requests.Response:
        """Log in by the host's own login."""
        return self._post("/login", data={"user": user})

    def log_out(self) -> requests.Response:
        """Log out by the host's own logout."""
        return self._post("/logout")

    def get(self, path: str, **headers: str) -> requests.Response:
        """`path` is below the mount point: "status". In the names of headers an underscore stands for a hyphen."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._session.get(f"{self._url}/phr/{path}", headers=sent, timeout=PATIENCE_SECONDS)

    def head(self, path: str) -> requests.Response:
        """As `get`, without the body, and without compression."""
        headers = {"Accept-Encoding": "identity"}
        return self._session.head(f"{self._url}/phr/{path}", headers=headers, timeout=PATIENCE_SECONDS)

    def post(self, path: str, *, csrf: bool = True) -> requests.Response:
        """As a page's script does. `csrf` False: as a page of another site's would."""
        return self._post(f"/phr/{path}", csrf=csrf)

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[str]]:
        """The lines of a response that comes piece by piece."""
        url = f"{self._url}/phr/{path}"
        with self._session.get(url, stream=True, timeout=PATIENCE_SECONDS) as response:
            response.raise_for_status()
            yield (line.decode() for line in response.iter_lines(chunk_size=1))

    def settled(self) -> dict[str, Any]:
        """The status once it has settled: 200."""
        while (answer := self.get("status", Prefer="wait=5")).status_code == 202:
            pass
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _post(self, path: str, *, csrf: bool = True, data: dict[str, str] | None = None) -> requests.Response:
        headers = {"Origin": "https://elsewhere.example"}
        if csrf:
            headers = self._session.get(f"{self._url}/csrf", timeout=PATIENCE_SECONDS).json()["headers"]
        url = f"{self._url}{path}"
        return self._session.post(url, data=data, headers=headers, timeout=PATIENCE_SECONDS, allow_redirects=False)
