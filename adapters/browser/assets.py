"""The browser module, which comes with the package."""

from importlib.resources import files

from .messages import JAVASCRIPT, HttpRequest, HttpResponse, static


def browser_module(request: HttpRequest) -> HttpResponse:
    """phr-refresh.js, an ES module."""
    return static(files(__package__).joinpath("phr-refresh.js").read_bytes(), JAVASCRIPT, request)
