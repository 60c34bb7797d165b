"""Starlette as a host under test: see `hosts`."""

from .hosts import HostUnderTest

#: Starlette has no CSRF protection; the adapter's own asks for no token, and refuses what other sites' pages send.
HOST = HostUnderTest(
    name="starlette",
    modules=("starlette", "fastapi", "uvicorn", "itsdangerous", "multipart"),
    refused_without_csrf=403,
)
