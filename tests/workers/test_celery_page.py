"""The page docs/celery.md: its modules and its commands, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.workers.celery import longest_delay
from phr_refresh.celery import Delivery
from phr_refresh.statemachine.policy import Policy
from support.celery_host import QUEUES, make_app
from support.fleet import eventually

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "celery.md").read_text(encoding="utf-8")
MODULES = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]

LOGIN = """
from portal.settings import PHR_REFRESH
from phr_refresh.embedding import Embedding
import time
class Ada:
    def get_username(self):
        return "ada"
with Embedding.of({**PHR_REFRESH, "policy": {"login_budget": 30}}).open() as phr:
    print(phr.login(Embedding.of(PHR_REFRESH).patient_of(Ada())).kind.value, flush=True)
    while phr.status("ada").state.value != "complete":
        time.sleep(0.1)
    print("complete")
"""


@pytest.mark.once
def test_the_page_works(shared_server: Callable[..., Any], tmp_path: Path) -> None:
    """Worker and beat start by the commands of the page, and a login of its project is worked off."""
    server = shared_server("valkey")
    package = tmp_path / "portal"
    package.mkdir()
    (package / "__init__.py").touch()
    for path, code in MODULES:
        (tmp_path / path).write_text(code.replace("redis://redis:6379", server.url), encoding="utf-8")
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(speed=20))
        environ = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "PYTHONWARNINGS": "ignore",
            "PHR_REFRESH_MHV_URL": simulator.url,
            "PHR_REFRESH_APP_TOKEN": simulator.app_token,
            "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
        }
        logs = []
        for number, line in enumerate(COMMANDS[1:]):
            program, *words = shlex.split(line)
            assert "celery" == program
            log = tmp_path / f"{number}.log"
            file = stack.enter_context(log.open("wb"))
            command = [sys.executable, "-m", program, *words]
            process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=file, stderr=file)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            logs.append(log)
        done = subprocess.run(
            [sys.executable, "-c", LOGIN], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert (["handed_over", "complete"], "") == (done.stdout.split(), done.stderr)
        eventually(lambda: "beat: Starting" in logs[1].read_text())


def test_its_figures_are_the_defaults() -> None:
    """The queues, the expiry, and the least visibility time-out."""
    delivery, policy = Delivery(), Policy()
    assert QUEUES == f"{delivery.queue},{delivery.follow_queue}"
    assert f"-Q {QUEUES} " in PAGE
    assert f"It expires after {delivery.expires.total_seconds() / 60:g} minutes" in PAGE
    least = 2 * (policy.poll_interval_max + policy.poll_interval).total_seconds()
    assert f"at least {least:g} seconds" in PAGE
    options = {"visibility_timeout": least}
    assert least / 2 == longest_delay(make_app("memory://", {"patient_of": len}, options=options))


def test_it_fits_a_page() -> None:
    """Fewer than 110 lines."""
    assert len(PAGE.splitlines()) < 110
