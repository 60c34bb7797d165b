"""Django as a host under test: see `hosts`."""

from .hosts import HostUnderTest

HOST = HostUnderTest(name="django", modules=("django",), refused_without_csrf=403)
