"""`replace` for the two kinds of frozen values that there are: dataclasses and `Value`."""

import dataclasses
from typing import Any

import msgspec


def replace(value: Any, /, **changes: Any) -> Any:
    """`value` with some fields changed."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **changes)
    return dataclasses.replace(value, **changes)
