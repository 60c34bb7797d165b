"""The places of those who wait: so many, so that they do not take all threads or connections."""

from collections.abc import Callable


class Place:
    """One of so many places of those who wait; given back once, at the latest when nothing holds it any more."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        """Let somebody else have it."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    __del__ = give_back


def give_back(held: list[Place]) -> None:
    """Give back all that are held."""
    for place in held:
        place.give_back()
    held.clear()
