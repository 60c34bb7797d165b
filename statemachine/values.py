"""Value: the base of the small frozen values that flows and adapters make and throw away by the dozen.

A `msgspec.Struct` is made in a tenth of the time of a frozen dataclass, and the garbage collector does not look at it:
a value must hold nothing that leads back to itself. `msgspec.structs.replace` copies one with some fields changed;
`dataclasses.replace` does not know it, so what callers get (`outcomes.py`) stays with dataclasses.
"""

from msgspec import Struct


class Value(Struct, frozen=True, gc=False):
    """A frozen value, equal to another of the same fields."""
