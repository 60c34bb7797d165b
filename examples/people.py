"""What the example portals share: three synthetic people who log in, and what stands in for an environment."""

import os
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any

from phr_refresh import Patient
from phr_refresh.simulator import Simulator

#: What the host knows its users by -> the patient that they are. `guest` has no MHV account. They are made up.
PEOPLE = {
    "ada": Patient("ada", "1012345678V123456", "12345"),
    "bob": Patient("bob", "1098765432V654321", "67890"),
    "guest": Patient("guest", "1000000001V000001"),
}

UPSTREAM = ("PHR_REFRESH_MHV_URL", "PHR_REFRESH_FHIR_URL", "PHR_REFRESH_APP_TOKEN", "PHR_REFRESH_AUTHORIZATION_KEY")


def settings_by(stack: ExitStack) -> dict[str, Any]:
    """Settings for what the environment does not give: a simulator and a SQLite file, which end with `stack`."""
    settings: dict[str, Any] = {}
    if not os.environ.get("PHR_REFRESH_STORE"):
        folder = stack.enter_context(TemporaryDirectory(prefix="phr-refresh-"))
        settings["store"] = f"sqlite:///{folder}/phr-refresh.db"
    if not all(os.environ.get(name) for name in UPSTREAM):
        settings["upstream"] = stack.enter_context(Simulator()).settings
    return settings
