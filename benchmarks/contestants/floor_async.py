"""The floor of asyncio: the calls of `floor`, by bare redis.asyncio."""

import asyncio

import redis.asyncio

from ..place import JWT, SESSION_SECONDS, WINDOW_SECONDS, Place
from ..record import PAYLOAD

_KEEP = WINDOW_SECONDS + 86_400


class AsyncFloor:
    """Bare calls, one connection per task that waits."""

    def __init__(self, place: Place) -> None:
        self._upstream = place.upstream
        pool = redis.asyncio.BlockingConnectionPool.from_url(place.url, protocol=2, timeout=5)
        self._redis = redis.asyncio.Redis.from_pool(pool)

    async def login(self, user: str) -> None:
        """One `GET`, and for somebody new the `SET`s of a first login."""
        if await self._redis.get(f"floor:{user}") is not None:
            return
        if not await self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP, nx=True):
            return
        # The upstream blocks, as a client of requests does.
        await asyncio.to_thread(self._upstream.open_session)
        both = self._redis.pipeline(transaction=False)
        both.set(f"floor:{user}", PAYLOAD, ex=_KEEP)
        both.set(f"floor:token:{user}", JWT, ex=SESSION_SECONDS)
        await both.execute()
        await asyncio.to_thread(self._upstream.start_refresh)
        await self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)

    async def status(self, user: str) -> str:
        """One `GET`."""
        return "no_session" if await self._redis.get(f"floor:{user}") is None else "complete"

    async def finish(self, user: str) -> None:
        """One `GET`, and a `SET` before and after the call."""
        await self._redis.get(f"floor:{user}")
        await self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)
        await asyncio.to_thread(self._upstream.ask_status)
        await self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)

    async def logout(self, user: str) -> None:
        """One `GET` and one `SET`."""
        await self._redis.get(f"floor:{user}")
        await self._redis.set(f"floor:{user}", PAYLOAD, ex=_KEEP)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def open_async_floor(place: Place) -> AsyncFloor:
    """The floor of asyncio, to be opened in its loop."""
    return AsyncFloor(place)
