"""The contract as an OpenAPI 3.1 document."""

from typing import Any


def document() -> dict[str, Any]:
    """The document. Paths are relative to where the host mounts them."""
    return {"openapi": "3.1.0", "info": {"title": "phr-refresh", "version": "1"}, "paths": {}}
