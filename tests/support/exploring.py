"""The explorer: steps real flows against each other in every order, with crashes, lost answers and leaps of the clock.

A schedule is a list of choices (exploring_choices.py), such as "A go" (the next moment of flow A), "A crash" or
"clock window". `explore` follows every schedule within the budgets of a scene, shortest first, so that the first
violation found is a shortest one; `wander` follows random ones; `replay` follows one.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .exploring_choices import Scene, options
from .exploring_moves import Laboratory
from .exploring_rules import ALWAYS, AT_THE_END, Predicate
from .exploring_world import World

#: The last choice that led to a world, and the link of the world before.
Link = tuple[str, Any] | None
_CALM = (" go", " done")


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, and the shortest schedule found that breaks it."""

    scene: Scene
    rule: str
    what: str
    choices: tuple[str, ...]


@dataclass
class Exploration:
    """What was explored: `schedules` counts the orders that lead to an end, `states` the different worlds seen."""

    scene: Scene
    states: int = 0
    steps: int = 0
    schedules: int = 0
    #: Of a core.
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    is_whole: bool = True

    def __str__(self) -> str:
        scene = self.scene
        budgets = (
            f"{len(scene.flows)} flows, {scene.faults} faults, {scene.jumps} jumps, {scene.steps} steps handed over"
        )
        counts = f"{self.schedules:,} schedules, {self.states:,} states, {self.steps:,} steps, {self.seconds:.1f} s"
        return f"{scene.name} ({budgets}): {counts}{'' if self.is_whole else ', not whole'}"


class Judge:
    """Holds worlds against the rules."""

    def __init__(self, lab: Laboratory, always: Mapping[str, Predicate] = ALWAYS) -> None:
        self.lab = lab
        self.always = always
        self._ends: dict[Any, str | None] = {}

    def broken_rule(self, world: World) -> tuple[str, str] | None:
        """The first rule that does not hold in this world, and what is wrong."""
        for rule, predicate in self.always.items():
            if what := predicate(self.lab, world):
                return rule, what
        if any(process.is_alive for process in world.processes):
            return None
        for rule, predicate in AT_THE_END.items():
            key = (rule, world.row, world.now)
            if key not in self._ends:
                self._ends[key] = predicate(self.lab, world)
            if what := self._ends[key]:
                return rule, what
        return None


def reach(scene: Scene, lab: Laboratory, start: World, counts: Exploration) -> Iterator[tuple[World, Link]]:
    """Each world that a schedule leads to, and how: shortest first. What was explored is counted in `counts`.

    Worlds that are equal after equally many choices are followed once, and their schedules counted. (Few worlds are
    reached by schedules of different lengths: to look for those would cost more than to follow them.)
    """
    level: dict[World, tuple[int, Link]] = {start: (1, None)}
    counts.states += 1
    while level:
        below: dict[World, tuple[int, Link]] = {}
        for world, (ways, link) in level.items():
            choices = options(scene, lab, world)
            counts.schedules += 0 if choices else ways
            for choice in choices:
                reached = lab.apply(world, choice)
                if reached is world:
                    continue
                reached = _frugal(scene, reached)
                counts.steps += 1
                known = below.get(reached)
                if known is None:
                    below[reached] = ways, (choice, link)
                    counts.states += 1
                    yield reached, (choice, link)
                else:
                    below[reached] = known[0] + ways, known[1]
        level = below


def _frugal(scene: Scene, world: World) -> World:
    """`world` without what can make no difference any more, so that more worlds are equal."""
    if world.faults >= scene.faults and world.before is not None:
        return world._replace(before=None)
    return world


def unwind(link: Link) -> tuple[str, ...]:
    """The choices that lead to a world."""
    choices: list[str] = []
    while link is not None:
        choices.append(link[0])
        link = link[1]
    return tuple(reversed(choices))


def explore(
    scene: Scene, *, most: int = 5_000_000, seconds: float = 3_600, always: Mapping[str, Predicate] = ALWAYS
) -> Exploration:
    """Every schedule of `scene`, shortest first: to the first violation, or to `most` steps, or `seconds` of a core."""
    found = Exploration(scene)
    lab, start = scene.begin()
    judge = Judge(lab, always)
    began = time.process_time()
    for world, link in reach(scene, lab, start, found):
        if broken := judge.broken_rule(world):
            found.violations.append(Violation(scene, *broken, unwind(link)))
            break
        if found.steps >= most or time.process_time() - began > seconds:
            found.is_whole = False
            break
    found.seconds = time.process_time() - began
    return found


def wander(scene: Scene, *, seed: int, steps: int, seconds: float = 3_600) -> Exploration:
    """Random schedules of `scene`, until so many steps were taken or a rule was broken."""
    random = Random(seed)
    found = Exploration(scene, is_whole=False)
    lab, start = scene.begin()
    judge = Judge(lab)
    began = time.process_time()
    while found.steps < steps and not found.violations and time.process_time() - began < seconds:
        world: World = start
        link: Link = None
        while choices := options(scene, lab, world):
            # Calm choices are the likelier ones: or every schedule would spend its budgets at once.
            calm = [choice for choice in choices if choice.endswith(_CALM) or choice.startswith("run ")]
            choice = random.choice(calm if calm and random.random() < 0.8 else choices)
            reached = lab.apply(world, choice)
            if reached is world:
                continue
            world, link = reached, (choice, link)
            found.steps += 1
            if broken := judge.broken_rule(world):
                found.violations.append(Violation(scene, *broken, unwind(link)))
                break
        found.schedules += 1
    found.seconds = time.process_time() - began
    return found


def replay(scene: Scene, choices: Sequence[str]) -> Iterator[tuple[str, World, World, tuple[str, str] | None]]:
    """Each choice, the world before and after it, and the rule that it breaks."""
    lab, world = scene.begin()
    judge = Judge(lab)
    for choice in choices:
        assert choice in options(scene, lab, world), f"{choice!r} is no choice here: {options(scene, lab, world)}"
        after = lab.apply(world, choice)
        yield choice, world, after, judge.broken_rule(after)
        world = after


def broken_by(scene: Scene, choices: Sequence[str]) -> list[tuple[str, str]]:
    """What a schedule breaks. Choices that are none any more are left out: a fault that is mended changes the way."""
    lab, world = scene.begin()
    judge = Judge(lab)
    found = []
    for choice in choices:
        if choice in options(scene, lab, world):
            world = lab.apply(world, choice)
            found.append(judge.broken_rule(world))
    return [broken for broken in found if broken]
