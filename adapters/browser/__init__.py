"""The HTTP contract towards browsers, without a framework: request facts in, status, headers and body out."""

from .answers import AsyncHttpStream, HttpRequest, HttpResponse, HttpStream, problem
from .contract import Contract
from .hosts import AsyncHost, AsyncRefresher, Host, Refresher
from .operations import is_public

__all__ = [
    "AsyncHost",
    "AsyncHttpStream",
    "AsyncRefresher",
    "Contract",
    "Host",
    "HttpRequest",
    "HttpResponse",
    "HttpStream",
    "Refresher",
    "is_public",
    "problem",
]
