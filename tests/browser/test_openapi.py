"""The OpenAPI document: what it says is what is answered, and nothing else is answered."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from phr_refresh.adapters.browser import contract as contract_module
from phr_refresh.adapters.browser.openapi import document
from phr_refresh.adapters.browser.operations import OPERATIONS, operation_at
from phr_refresh.adapters.ports import NotReady, RecordsFailed
from phr_refresh.adapters.simulator import Fault
from phr_refresh.statemachine.errors import RecordUnreadable, StoreUnavailable
from support.contract import ADA, DONE, GUEST, KINDS, SECRETS, Answered, Visit, documented, visiting
from support.serving import portal

# The document itself.


def test_the_document_is_valid_json_schema_throughout() -> None:
    """Each schema is a valid one of the dialect that OpenAPI 3.1 uses, and each reference leads somewhere."""
    described = document(("vitals",))
    assert "3.1.0" == described["openapi"]
    for name, schema in described["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
        jsonschema_rs.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
        )
    for path in described["paths"].values():
        for operation in path.values():
            for answer in operation["responses"].values() if isinstance(operation, dict) else ():
                for content in answer.get("content", {}).values():
                    name = content["schema"]["$ref"].rpartition("/")[2]
                    assert name in described["components"]["schemas"]


def test_each_operation_has_a_name_of_its_own() -> None:
    """`operationId` is what generated clients call their functions."""
    ids = [item["operationId"] for path in document()["paths"].values() for item in path.values() if "summary" in item]
    assert sorted(set(ids)) == sorted(ids)
    assert ["events", "openapi", "phr_refresh", "records", "refresh", "status"] == sorted(ids)


def test_requests_are_routed_by_the_same_table() -> None:
    """Each operation of the document has a handler, and each handler is in the document."""
    handled = contract_module._HANDLERS.keys() | contract_module._PUBLIC.keys()
    assert {operation.name for operation in OPERATIONS} == handled
    assert {operation.name for operation in OPERATIONS if operation.is_public} == contract_module._PUBLIC.keys()
    for operation in OPERATIONS:
        assert operation_at(operation.path.replace("{kind}", "vitals"))[0] is operation


def test_the_kinds_of_records_are_in_it_where_they_are_known() -> None:
    """A contract that knows what records there are says so."""

    def schema_of_kind(kinds: tuple[str, ...] | None) -> Any:
        return document(kinds)["paths"]["/records/{kind}"]["parameters"][0]["schema"]

    assert ["allergies", "vitals"] == schema_of_kind(("vitals", "allergies"))["enum"]
    assert "enum" not in schema_of_kind(None)


# Each answer that it describes.


def ended(visit: Visit) -> None:
    """Let the refresh be over."""
    visit.begin()
    visit.upstream.tells = DONE
    visit.clock.tick(1)
    visit.get()


def after(prepare: Callable[[Visit], object], method: str, path: str, **headers: str) -> Callable[[Visit], Answered]:
    """What is answered once something has happened."""

    def scene(visit: Visit) -> Answered:
        prepare(visit)
        return visit.ask(method, path, **headers)

    return scene


def known(path: str) -> Callable[[Visit], Answered]:
    """What somebody is answered who asks again."""
    return lambda visit: visit.get(path, if_none_match=visit.get(path).headers["ETag"])


def failing(error: Exception) -> Callable[[Visit], object]:
    """From now on nothing can be read."""

    def fail(visit: Visit) -> None:
        def raises(*_: object) -> object:
            raise error

        visit.phr.status = visit.phr.login = visit.phr.records = raises

    return fail


def seen(visit: Visit) -> Answered:
    """What an event stream is answered whose reader has seen the end."""
    tag = visit.get().headers["ETag"]
    return visit.get("events", last_event_id=tag.removeprefix("W/").strip('"'))


def records_say(answer: object) -> Callable[[Visit], object]:
    """The FHIR server's next answer."""
    return lambda visit: visit.upstream.records.append(answer)


def no_records(visit: Visit) -> None:
    """Let the refresh be over, with nothing to read."""
    ended(visit)
    visit.upstream.records.append(NotReady())


def nothing(_: Visit) -> None:
    """Nothing has happened."""


SCENES: dict[tuple[str, int], Callable[[Visit], Answered]] = {
    ("status", 200): after(nothing, "GET", "status"),
    ("status", 202): after(Visit.begin, "GET", "status"),
    ("status", 304): known("status"),
    ("events", 200): after(nothing, "GET", "events"),
    ("events", 204): seen,
    ("refresh", 202): after(nothing, "POST", "refresh"),
    ("refresh", 429): after(ended, "POST", "refresh"),
    ("records", 200): after(ended, "GET", "records/vitals"),
    ("records", 202): after(Visit.begin, "GET", "records/vitals"),
    ("records", 404): after(lambda visit: visit.serve(kinds=()), "GET", "records/vitals"),
    ("records", 502): after(records_say(RecordsFailed("http_401")), "GET", "records/vitals"),
    ("records", 503): after(no_records, "GET", "records/vitals"),
    ("openapi.json", 200): after(nothing, "GET", "openapi.json"),
    ("openapi.json", 304): known("openapi.json"),
    ("phr-refresh.js", 200): after(nothing, "GET", "phr-refresh.js"),
    ("phr-refresh.js", 304): known("phr-refresh.js"),
}
for operation in OPERATIONS:
    if not operation.is_public:
        at = (operation.method, operation.path.strip("/").replace("{kind}", "vitals"))
        SCENES |= {
            (operation.name, 401): lambda visit, at=at: visit.ask(*at, is_logged_in=False),
            (operation.name, 403): lambda visit, at=at: visit.ask(*at, GUEST),
            (operation.name, 500): after(failing(RecordUnreadable("corrupt", "mend it")), *at),
        }
        SCENES.setdefault((operation.name, 503), after(failing(StoreUnavailable("redis", "refused")), *at))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "status"), documented())
def test_every_documented_answer_is_given(name: str, status: int, kind: str) -> None:
    """Each status of each operation can be had; `Visit.ask` holds its headers and its body against the document."""
    with visiting(kind) as visit:
        assert status == SCENES[name, status](visit).status


def test_there_is_a_scene_for_each_answer() -> None:
    """No scene is left over."""
    assert set(documented()) == SCENES.keys()


# The document in the hands of a stranger.

FAULTS = {
    "all well": [],
    "no session": [Fault("login", "http_error", status=500)],
    "records fail": [Fault("fhir", "http_error", status=503)],
}
#: What makes no sense here: no header of a request is ever refused, and what is refused because of the state that the
#: patient is in (429, 404) says nothing about the request.
LEFT_OUT = "negative_data_rejection"


@pytest.mark.once
@pytest.mark.parametrize("fault", FAULTS)
def test_a_stranger_finds_no_difference(fault: str, tmp_path: Path) -> None:
    """Schemathesis asks what the document allows and what it does not: each answer is one that the document has."""
    left_out = LEFT_OUT if fault == "all well" else f"{LEFT_OUT},not_a_server_error,positive_data_acceptance"
    with portal(FAULTS[fault], tmp_path, {"member": ADA, "guest": GUEST}) as url:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}openapi.json", "--url", url),
            *("--header", "Cookie: session=member", "--checks", "all", "--exclude-checks", left_out),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--seed", "1", "--no-color"),
            *("--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off"),
        ]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    # It leaves out the document itself.
    assert "5 selected / 5 total" in ran.stdout
    assert [] == [secret for secret in SECRETS if secret in ran.stdout + ran.stderr]
