"""The counted promises, over real HTTP: two hundred browsers hurry nobody, and waiting costs two requests at most.

`SCALE` shortens all durations alike, those of the refresh, the policy and the browsers' pauses.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

from phr_refresh import AsyncPhrRefresh, Patient, PhrRefresh, Policy, open_async_store, open_store
from phr_refresh.adapters.browser import AsyncHost, Contract, Host
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from support.serving import fetch, serving, serving_async

ADA = Patient("ada", "1012345678V123456", "12345")
PEOPLE = {"ada": ADA}
BROWSERS = 200
SCALE = 0.2


def policy_at(scale: float) -> Policy:
    """The default intervals, scaled."""
    return Policy(
        poll_schedule=(),
        poll_interval=Policy().poll_interval * scale,
        poll_interval_max=Policy().poll_interval_max * scale,
        login_budget=timedelta(seconds=30),
    )


def contract_at(scale: float) -> Contract:
    """The default looks, scaled."""
    plain = Contract()
    return Contract(shortest_look=plain.shortest_look * scale, longest_look=plain.longest_look * scale)


@contextmanager
def upstream_at(scale: float) -> Iterator[tuple[Simulator, MhvUpstream]]:
    """A refresh takes as long as one took in the recordings (about 6 s), scaled."""
    with Simulator(speed=1 / scale) as simulator:
        yield (
            simulator,
            MhvUpstream(
                MhvSettings(
                    base_url=simulator.url,
                    app_token=simulator.app_token,
                    authorization_key=simulator.authorization_key,
                )
            ),
        )


class Browsers:
    """What browsers did: how many requests each, and how long it took from the start of the refresh to the end."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.began = time.monotonic()
        self.requests: Counter[int] = Counter()
        self.waits: list[float] = []

    async def browse(self, url: str, number: int, **headers: str) -> str:
        """One browser: asks as it is told to, until it need not ask any more."""
        while True:
            self.requests[number] += 1
            status, answered, body = await fetch(f"{url}status", cookie="session=ada", **headers)
            if status == 200:
                self.waits.append(time.monotonic() - self.began)
                return body.decode()
            assert 202 == status
            await asyncio.sleep(int(answered["retry-after"]) * self.scale)

    async def all_browse(self, url: str, **headers: str) -> None:
        """Two hundred of them."""
        bodies = await asyncio.gather(*(self.browse(url, number, **headers) for number in range(BROWSERS)))
        assert BROWSERS == sum('"state":"complete"' in body for body in bodies)

    def most_calls(self, policy: Policy) -> int:
        """One status call per poll interval: so many from the start until now."""
        return int((time.monotonic() - self.began) / policy.poll_interval.total_seconds()) + 1

    def __str__(self) -> str:
        total, most = self.requests.total(), max(self.requests.values())
        return f"{total} requests, {most} of one at most; done after {min(self.waits):.2f} to {max(self.waits):.2f} s"


def poll(folder: Path, scale: float) -> str:
    """Browsers that know nothing but Retry-After, at a host with threads."""
    policy = policy_at(scale)
    with upstream_at(scale) as (simulator, upstream):
        store = open_store(f"sqlite:///{folder / 'store.db'}")
        with closing(PhrRefresh(store=store, upstream=upstream, policy=policy)) as phr:
            browsers = Browsers(scale)
            phr.refresh(ADA)
            with serving(Host(phr, contract=contract_at(scale)), PEOPLE) as url:
                asyncio.run(browsers.all_browse(url))
            calls, most = simulator.calls()["totals"]["status"], browsers.most_calls(policy)
    assert 1 <= calls <= most
    assert 1 == simulator.calls()["totals"]["refresh"]
    return f"polling: {browsers}; {calls} status calls, {most} allowed"


async def wait(folder: Path, scale: float) -> str:
    """Browsers that are ready to wait, at a host on asyncio."""
    policy = policy_at(scale)
    with upstream_at(scale) as (simulator, upstream):
        store = open_async_store(f"sqlite:///{folder / 'store.db'}")
        async with AsyncPhrRefresh(store=store, upstream=upstream, policy=policy) as phr:
            browsers = Browsers(scale)
            await phr.refresh(ADA)
            async with serving_async(AsyncHost(phr, contract=contract_at(scale)), PEOPLE) as url:
                await browsers.all_browse(url, prefer="wait=25")
            calls, most = simulator.calls()["totals"]["status"], browsers.most_calls(policy)
    assert 1 <= calls <= most
    assert 2 >= max(browsers.requests.values())
    return f"waiting: {browsers}; {calls} status calls, {most} allowed"


def test_two_hundred_browsers_do_not_hurry_the_upstream(tmp_path: Path) -> None:
    """However many poll, the upstream is asked once per poll interval at most, and each learns the end."""
    assert "polling" in poll(tmp_path, SCALE)


def test_waiting_costs_two_requests_at_most(tmp_path: Path) -> None:
    """With Prefer: wait=25 each browser needs one request, or two, for a refresh of six seconds."""
    assert "waiting" in asyncio.run(wait(tmp_path, SCALE))


def test_a_stream_costs_one_request(tmp_path: Path) -> None:
    """Server-Sent Events over real HTTP: one connection from the start of the refresh to its end."""

    async def listen() -> bytes:
        policy = policy_at(SCALE)
        with upstream_at(SCALE) as (_, upstream):
            store = open_async_store(f"sqlite:///{tmp_path / 'store.db'}")
            async with AsyncPhrRefresh(store=store, upstream=upstream, policy=policy) as phr:
                await phr.refresh(ADA)
                async with serving_async(AsyncHost(phr, contract=contract_at(SCALE)), PEOPLE) as url:
                    status, headers, body = await fetch(f"{url}events", cookie="session=ada")
                    assert (200, "text/event-stream") == (status, headers["content-type"])
                    return body

    body = asyncio.run(listen())
    assert b'"state":"refreshing"' in body
    assert b'"state":"complete"' in body.rpartition(b"event: status")[2]
