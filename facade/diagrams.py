"""The generated documents in `diagrams/`: written from the table and from flows that really run."""

from itertools import count
from pathlib import Path

from phr_refresh.statemachine.diagram import state_diagram, transition_table
from phr_refresh.statemachine.effects import Refresh
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.rehearsal import Rehearsal
from phr_refresh.statemachine.table import FINGERPRINT
from phr_refresh.statemachine.trace import Recorder, sequence_diagram

# Nobody's identifiers: they are in no diagram, but a flow wants a patient.
_SOMEBODY = Patient("somebody", "0000000000V000000", "0")


def documents() -> dict[str, str]:
    """File name -> content of every generated document."""
    return {
        "lifecycle.mmd": state_diagram(),
        "lifecycle.md": f"# The lifecycle, definition {FINGERPRINT}\n\n{transition_table()}",
        "login.mmd": _login_sequence(),
        "session.mmd": _session_sequence(),
    }


def write(folder: Path) -> list[Path]:
    """Write every document into `folder`; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in documents().items():
        paths.append(folder / name)
        paths[-1].write_text(content, encoding="utf-8")
    return paths


def drifted(folder: Path) -> list[str]:
    """The names of documents in `folder` that are missing or not what would be written now."""
    return [
        name
        for name, content in documents().items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content.encode()
    ]


def _flows() -> Flows:
    ids = count(1)
    return Flows(Policy(), lambda: f"id{next(ids)}")


def _login_sequence() -> str:
    """A login, the whole refresh, and a second login inside the window that starts nothing."""
    flows, world, recorder = _flows(), Rehearsal(), Recorder()
    world.run(recorder.tap(flows.login(_SOMEBODY)))
    while world.steps:
        step, delay = world.steps.popleft()
        world.now += int(delay * 1000)
        world.run(recorder.tap(flows.step(step)))
        if isinstance(step, Refresh):
            world.run(recorder.tap(flows.status(_SOMEBODY.key, _SOMEBODY)))
    world.run(recorder.tap(flows.status(_SOMEBODY.key, _SOMEBODY)))
    recorder.note("Note over Browser,Store: A second login inside the window of one hour starts nothing")
    world.run(recorder.tap(flows.login(_SOMEBODY)))
    return sequence_diagram(recorder.happenings)


def _session_sequence() -> str:
    """Two requests open the records page at once: one creates the session, the other waits for it."""
    flows, world, recorder = _flows(), Rehearsal(polls=1), Recorder()
    first = recorder.tap(flows.session(_SOMEBODY))
    second = recorder.tap(flows.session(_SOMEBODY))
    commit = first.send(world.perform(next(first)))
    create = first.send(world.perform(commit))
    wait = second.send(world.perform(next(second)))
    waited = world.perform(wait)
    world.run(first, world.perform(create))
    world.run(second, waited)
    recorder.note("Login->>FHIR: GET vital signs, with the token")
    recorder.note("FHIR-->>Login: searchset Bundle")
    while world.steps:
        step, delay = world.steps.popleft()
        world.now += int(delay * 1000)
        if isinstance(step, Refresh):
            recorder.note("Note over Worker,PHR: A session that was created in an open window starts the refresh too")
        world.run(recorder.tap(flows.step(step)))
    return sequence_diagram(recorder.happenings)
