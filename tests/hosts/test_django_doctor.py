"""`manage.py phr_doctor`: the doctor by a portal's settings."""

import json
from pathlib import Path

import pytest

pytest.importorskip("django")

from phr_refresh.adapters.simulator import Simulator
from support.manage import Manage


def test_it_examines_the_portals_settings(tmp_path: Path) -> None:
    """A line for each finding; 1 if something is wrong, which `--strict` says of warnings, too."""
    with Simulator() as simulator:
        manage = Manage(f"sqlite:///{tmp_path / 'store.db'}")
        code, out, _ = manage("phr_doctor", PHR_REFRESH_MHV_URL=simulator.url)
        assert 0 == code
        assert "WARNING sealing" in out
        code, _, err = manage("phr_doctor", "--strict", PHR_REFRESH_MHV_URL=simulator.url)
        assert (1, True) == (code, "findings are to be seen to" in err)
        code, out, _ = manage("phr_doctor", "--json", PHR_REFRESH_MHV_URL="http://127.0.0.1:1")
    assert (1, 1) == (code, json.loads(out)["counts"]["error"])
