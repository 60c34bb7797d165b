"""A status answer must not end the pause that a failed session call has earned."""

from collections import deque

import pytest
from phr_refresh.statemachine.effects import Phase, SessionFailed, StatusReport
from phr_refresh.statemachine.errors import SessionUnavailable
from support.samples import ADA, SECOND
from support.stepping import DONE, World


@pytest.mark.parametrize("report", [DONE, StatusReport(Phase.FAILED)])
def test_the_end_of_a_refresh_leaves_the_pause_of_the_session(report: StatusReport) -> None:
    """Logged out, logged in again, the session call fails: 2 s pause. The refresh ends meanwhile: still 2 s."""
    world = World(statuses=deque([report]))
    world.logged_in()
    world.run(world.flows.logout(ADA.key))
    world.sessions.extend([SessionFailed("http_500")] * 5)
    world.now += SECOND
    with pytest.raises(SessionUnavailable):
        world.run(world.flows.session(ADA))
    retry_at = world.record().retry_at
    assert retry_at == world.now + 2 * SECOND
    world.run(world.flows.status(ADA.key, ADA))
    assert [world.now] == world.polls
    assert (retry_at, 1) == (world.record().retry_at, world.record().failures)
    opened = len(world.opened)
    with pytest.raises(SessionUnavailable):
        world.run(world.flows.session(ADA))
    assert opened == len(world.opened)
