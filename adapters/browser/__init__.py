"""The HTTP contract towards browsers, without a framework: request facts in, status, headers and body out."""

from .async_host import AsyncHost, AsyncRefresher
from .contract import Contract
from .host import Host, Refresher
from .messages import AsyncHttpStream, HttpRequest, HttpResponse, HttpStream

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
]
