"""The program that measures what a login costs: benchmarks/login_cost.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
CHECKOUT = Path(__file__).parents[2]


def test_the_cost_of_a_login_is_measured_beside_bare_calls():
    """Every refresh ends with its one poll, or there are no figures; the calls alone cost less than all of it."""
    program = [sys.executable, "-m", "benchmarks.login_cost", "20"]
    # The benchmarks are in no wheel.
    path = os.pathsep.join([str(CHECKOUT), *sys.path])
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert "" == done.stderr
    whole, calls, bare = (float(line.split()[0]) for line in done.stdout.splitlines())
    assert 0 < bare < whole
    assert 0 < calls < whole
