"""Hand-written fakes of the ports, for tests that run flows through a real driver."""

from phr_refresh.statemachine.effects import Fact, Step
from phr_refresh.testing import ScriptedUpstream, SteppableStore

__all__ = ["RecordingWorker", "ScriptedUpstream", "Silent", "SteppableStore"]


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def __call__(self, fact: Fact) -> None:
        self.facts.append(fact)

    def told(self, name: str) -> list[Fact]:
        """The facts of that name, in order."""
        return [fact for fact in self.facts if fact.name == name]


class RecordingWorker:
    """Takes steps and runs none."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.taken: list[tuple[Step, float]] = []
        self.is_full = is_full

    def start(self, run: object) -> None:
        pass

    def close(self) -> int:
        return 0

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        if not self.is_full:
            self.taken.append((step, delay))
        return not self.is_full
