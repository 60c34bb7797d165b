"""InlineWorker: runs each step at once, in the caller; for tests and for scripts."""

from ...statemachine.effects import Step
from ..ports import Runner


class InlineWorker:
    """Steps without delay run inside `hand_over`; delayed ones wait in `later` until `run_later` is called."""

    def __init__(self) -> None:
        self.later: list[tuple[Step, float]] = []
        self._run: Runner | None = None

    def start(self, run: Runner) -> None:
        """See `Worker.start`."""
        self._run = run

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """Always takes the step."""
        if delay > 0 or self._run is None:
            self.later.append((step, delay))
        else:
            self._run(step)
        return True

    def run_later(self) -> int:
        """Run the steps that wait now, whatever their delay; how many they were. What they hand over waits again."""
        waiting, self.later = self.later, []
        for step, _ in waiting:
            if self._run is not None:
                self._run(step)
        return len(waiting)

    def close(self) -> int:
        """Lets go of what waits."""
        dropped, self.later = len(self.later), []
        return dropped
