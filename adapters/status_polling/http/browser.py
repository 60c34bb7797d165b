"""The browser module, which comes with the package."""

from importlib.resources import files

from .messages import JAVASCRIPT, HttpRequest, HttpResponse, static

_PACKAGE = __name__.rpartition(".http.")[0]


def browser_module(request: HttpRequest) -> HttpResponse:
    """phr-refresh.js, an ES module."""
    return static(files(_PACKAGE).joinpath("browser", "phr-refresh.js").read_bytes(), JAVASCRIPT, request)
