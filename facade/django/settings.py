"""The settings block as Django has it."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from phr_refresh.statemachine.errors import ConfigurationError

NAME = "PHR_REFRESH"


def settings_block() -> Mapping[str, Any]:
    """The setting PHR_REFRESH. Raises `ConfigurationError` where there is none."""
    # By name: the settings of Django are a bag of names, of which this one may be missing.
    block: object = getattr(settings, NAME, None)
    if not isinstance(block, Mapping):
        problem = "it is not set" if block is None else "it is no mapping"
        raise ConfigurationError(NAME, problem, 'write PHR_REFRESH = {"patient_of": ..., "store": ...}')
    return block
