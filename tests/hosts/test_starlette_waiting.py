"""A hundred clients that wait at one process of uvicorn, on a real Valkey; `waiting_clients.py` measures a thousand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

PROGRAM = Path(__file__).parents[1] / "programs" / "waiting_clients.py"
CLIENTS = 100


def measured(patients: int, store_url: str) -> dict[str, Any]:
    """The figures."""
    options = ["--clients", str(CLIENTS), "--patients", str(patients), "--speed", "2", "--store", store_url]
    done = subprocess.run([sys.executable, str(PROGRAM), *options], capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("patients", [1, CLIENTS])
def test_waiting_costs_few_requests_and_calls(patients: int, shared_server) -> None:
    """Each client learns the end with two requests at most; the upstream is asked once per patient and interval."""
    found = measured(patients, shared_server("valkey").url)
    assert ({"complete": CLIENTS}, 0) == (found["states"], found["problems"])
    assert {"1", "2"} >= set(found["requests_per_client"])
    upstream = found["upstream"]
    assert (patients, patients) == (upstream["login"], upstream["refresh"])
    # The poll interval is a second, and grows.
    assert upstream["status"] <= patients * (1 + found["login_seconds"] + found["waiting_seconds"])
