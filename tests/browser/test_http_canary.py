"""Rule R7 over real HTTP: whatever goes wrong, no header and no body holds an identifier, a token or a key."""

import asyncio
import json
from pathlib import Path

import pytest
from phr_refresh.adapters.simulator import Fault
from support.contract import ADA, CORRELATION_ID, GUEST, ICN, USER_ID
from support.serving import fetch, portal

KEYS = {"app_token": "canary-app-token", "authorization_key": "canary-authorization-key"}
#: What every token begins with.
JWT = "eyJ"
SECRETS = (USER_ID, ICN, ICN.lower(), CORRELATION_ID, *KEYS.values(), JWT, "canary")
FAULTS = {
    "none": [],
    "login refused": [Fault("login", "unauthorized")],
    "login without a token": [Fault("login", "bad_token")],
    "kick-off refused": [Fault("refresh", "http_error", status=400)],
    "kick-off answer lost": [Fault("refresh", "lost_answer")],
    "status garbage": [Fault("status", "garbage")],
    "all extracts fail": [Fault("refresh", "all_failed")],
    "records garbage": [Fault("fhir", "garbage")],
    "records refused": [Fault("fhir", "unauthorized")],
}
REQUESTS = [
    ("GET", "status"),
    ("GET", "records/vitals"),
    ("POST", "refresh"),
    ("GET", "status"),
    ("GET", "records/vitals"),
    ("GET", f"records/{USER_ID}"),
    ("GET", f"status/{ICN}"),
    ("GET", "openapi.json"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_answer_holds_an_identifier(fault: str, tmp_path: Path) -> None:
    """A whole visit of a member, somebody without an account and somebody without a login."""

    async def visit(url: str) -> list[str]:
        told = []
        for user in ("member", "guest", "nobody"):
            for method, path in REQUESTS:
                told.append(str(await fetch(url + path, method, cookie=f"session={user}", prefer="wait=1")))
        return told

    with portal(FAULTS[fault], tmp_path, {"member": ADA, "guest": GUEST}, **KEYS) as url:
        told = asyncio.run(visit(url))
    assert 3 * len(REQUESTS) == len(told)
    assert [] == [(answer, secret) for answer in told for secret in SECRETS if secret in answer]


def test_an_event_stream_holds_no_identifier(tmp_path: Path) -> None:
    """Nor does the stream, from the start of a refresh to its end."""

    async def listen(url: str) -> str:
        await fetch(f"{url}refresh", "POST", cookie="session=member")
        while json.loads((await fetch(f"{url}status", cookie="session=member"))[2])["state"] == "no_session":
            pass
        return str(await fetch(f"{url}events", cookie="session=member"))

    with portal([], tmp_path, {"member": ADA}, **KEYS) as url:
        told = asyncio.run(listen(url))
    assert "event: status" in told
    assert [] == [secret for secret in SECRETS if secret in told]
