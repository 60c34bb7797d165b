"""The scenes that are explored: which flows meet, and how their patient stands when they do."""

from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import StartRefresh
from phr_refresh.statemachine.flows import Flows

from .exploring_choices import IMPATIENT, Scene
from .exploring_moves import Laboratory
from .exploring_rules import undisturbed
from .exploring_world import World
from .samples import ADA, MINUTE, SECOND
from .values import replace


def login(flows: Flows) -> Flow[object]:
    """A login, which hands the rest over."""
    return flows.login(ADA)


def refresh(flows: Flows) -> Flow[object]:
    """What the worker runs."""
    return flows.refresh(ADA, wait=False)


def session(flows: Flows) -> Flow[object]:
    """A caller wants the token."""
    return flows.session(ADA)


def status(flows: Flows) -> Flow[object]:
    """A browser asks, and its process may ask the upstream."""
    return flows.status(ADA.key, ADA)


def logout(flows: Flows) -> Flow[object]:
    """The patient logs out."""
    return flows.logout(ADA.key)


def sweep(flows: Flows) -> Flow[object]:
    """The sweeper."""
    return flows.sweep(10)


def running(lab: Laboratory, world: World) -> World:
    """A refresh runs, and its first status call is due."""
    world = undisturbed(lab, world, "P", refresh)
    return world._replace(now=world.record.next_poll_at)


def running_to_its_window(lab: Laboratory, world: World) -> World:
    """A refresh never ended; its window passes in ten seconds, and the patient has a session again."""
    world = undisturbed(lab, world, "P", refresh)
    world = world._replace(now=world.record.window_opens_at - 10 * SECOND)
    return undisturbed(lab, world, "Q", session)


def window_over(lab: Laboratory, world: World) -> World:
    """The window of the last refresh has passed; a session is cached."""
    world = running_to_its_window(lab, world)
    return world._replace(now=world.record.window_opens_at + MINUTE)


def closed(lab: Laboratory, world: World) -> World:
    """A refresh never ended; its window passes in ten minutes, and there is no session."""
    world = undisturbed(lab, world, "P", refresh)
    return world._replace(now=world.record.window_opens_at - 10 * MINUTE)


def completed_and_over(lab: Laboratory, world: World) -> World:
    """The last refresh completed, and its window has passed; a session is cached."""
    world = running(lab, world)
    world = undisturbed(lab, world, "Q", status, word="done")
    world = world._replace(now=world.record.window_opens_at)
    return undisturbed(lab, world, "R", session)


def with_session(lab: Laboratory, world: World) -> World:
    """A session is cached, and nothing was ever refreshed."""
    return undisturbed(lab, world, "P", session)


def overdue(lab: Laboratory, world: World) -> World:
    """A refresh has just run past its deadline, and nobody has looked since."""
    world = undisturbed(lab, world, "P", refresh)
    return world._replace(now=world.record.deadline_at)


def complete_and_due(lab: Laboratory, world: World) -> World:
    """The last refresh completed, a session is cached, the window has just passed, and nobody has looked since."""
    world = running(lab, world)
    world = undisturbed(lab, world, "Q", status, word="done")
    world = world._replace(now=world.record.window_opens_at - 1)
    world = undisturbed(lab, world, "R", session)
    return world._replace(now=world.record.window_opens_at)


def orphaned(lab: Laboratory, world: World) -> World:
    """A process has died between claiming a kick-off and sending it."""
    world = lab.start(with_session(lab, world)._replace(processes=()), "Q", refresh)
    while not isinstance(world.process("Q").node.effect, StartRefresh):
        world = lab.apply(world, "Q go")
    return lab.apply(world, "Q crash")


#: The claim on a kick-off must be on a replica before the kick-off is sent.
DURABLE = replace(IMPATIENT, claim_replicas=1)

PAIRS = (
    Scene("login-login", {"A": login, "B": login}),
    Scene("login-logout", {"A": login, "B": logout}),
    Scene("refresh-refresh", {"A": refresh, "B": refresh}),
    Scene("refresh-session", {"A": refresh, "B": session}),
    Scene("refresh-status", {"A": refresh, "B": status}),
    Scene("refresh-logout", {"A": refresh, "B": logout}),
    Scene("session-session", {"A": session, "B": session}),
    Scene("session-logout", {"A": session, "B": logout}),
    Scene("refresh-refresh, with a session", {"A": refresh, "B": refresh}, with_session),
    Scene("status-status, running", {"A": status, "B": status}, running),
    Scene("status-logout, running", {"A": status, "B": logout}, running),
    Scene("status-refresh, running", {"A": status, "B": refresh}, running),
    Scene("status-sweep, overdue", {"A": status, "B": sweep}, overdue),
    Scene("sweep-sweep, overdue", {"A": sweep, "B": sweep}, overdue),
    Scene("sweep-logout, overdue", {"A": sweep, "B": logout}, overdue),
    Scene("refresh-sweep, complete and due", {"A": refresh, "B": sweep}, complete_and_due),
    Scene("refresh-status, orphaned", {"A": refresh, "B": status}, orphaned),
    Scene("login-login, window over", {"A": login, "B": login}, window_over),
    Scene("refresh-refresh, window over", {"A": refresh, "B": refresh}, window_over),
    Scene("status-refresh, window ends", {"A": status, "B": refresh}, running_to_its_window),
)
#: With claims on a replica.
DURABLE_PAIRS = (
    Scene("refresh-refresh, durable", {"A": refresh, "B": refresh}, with_session, policy=DURABLE),
    Scene("refresh-status, durable", {"A": refresh, "B": status}, with_session, policy=DURABLE),
    Scene("refresh-refresh, durable, window over", {"A": refresh, "B": refresh}, window_over, policy=DURABLE),
)
TRIPLES = (
    Scene("login-login-logout", {"A": login, "B": login, "C": logout}, steps=2),
    Scene("refresh-session-logout", {"A": refresh, "B": session, "C": logout}),
    Scene("refresh-refresh-refresh, with a session", {"A": refresh, "B": refresh, "C": refresh}, with_session),
    Scene("refresh-refresh-status, window over", {"A": refresh, "B": refresh, "C": status}, window_over),
    Scene("status-status-logout, running", {"A": status, "B": status, "C": logout}, running),
    Scene("status-refresh-logout, window ends", {"A": status, "B": refresh, "C": logout}, running_to_its_window),
    Scene("status-refresh-sweep, overdue", {"A": status, "B": refresh, "C": sweep}, overdue),
)


def scene_named(name: str, *, faults: int, jumps: int, steps: int) -> Scene:
    """One of the scenes, under other budgets."""
    scene = next(scene for scene in (*PAIRS, *DURABLE_PAIRS, *TRIPLES) if scene.name == name)
    return replace(scene, faults=faults, jumps=jumps, steps=steps)
