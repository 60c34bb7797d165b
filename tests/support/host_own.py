"""The host of docs/write-your-own-host.md as a host under test: see `hosts`."""

from .hosts import HostUnderTest

#: wsgiref and nothing else. It has no CSRF protection.
HOST = HostUnderTest(name="own", modules=())
