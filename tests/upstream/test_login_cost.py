"""The program that measures what a login costs: benchmarks/login_cost.py."""

import pytest
from benchmarks.login_cost import measure

pytestmark = pytest.mark.once


def test_the_cost_of_a_login_is_measured_beside_bare_calls():
    """Every refresh ends with its one poll, or there are no figures; the calls alone cost less than all of it."""
    whole, calls, bare = measure(20).values()
    assert 0 < bare < calls < whole
