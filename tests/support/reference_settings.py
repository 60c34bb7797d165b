"""How many examples the property tests try: few enough for every run, and more where somebody asks for more."""

import os

from hypothesis import HealthCheck, settings

#: PHR_REFRESH_EXAMPLES=50 tries fifty times as many examples, each run with new ones.
FACTOR = int(os.environ.get("PHR_REFRESH_EXAMPLES", "1"))


def examples(number: int, *, steps: int = 50) -> settings:
    """Settings for `number` examples in a normal run; `steps` is the longest run of a rule-based machine."""
    return settings(
        max_examples=number * FACTOR,
        stateful_step_count=steps,
        deadline=None,
        # Time stands still or leaps in these tests, and stores are slow on a busy machine.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
