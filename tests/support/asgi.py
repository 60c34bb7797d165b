"""Real servers for apps of the test's own process, so that a test can look into what it serves."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

#: For any answer: far more than it takes.
PATIENCE_SECONDS = 60


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Where uvicorn serves `app`, in a thread and an event loop of its own; without a slash at the end."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            # Connections wait in the backlog until uvicorn takes them.
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
