"""What the tests of the upstream share: a clock, and servers that say what they are told to."""

from contextlib import ExitStack

import pytest
from support.clocks import Clock
from support.wire import Wire


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def wire(opened):
    """Makes servers that end with the test."""

    def make(*acts, tls=None):
        server = Wire(*acts, tls=tls)
        opened.callback(server.close)
        return server

    return make
