"""A clock for what takes one."""


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds

    @property
    def milliseconds(self) -> int:
        """Since the epoch."""
        return round(self.seconds * 1000)
