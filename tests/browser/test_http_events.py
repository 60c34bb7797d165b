"""Server-Sent Events: what a stream says, when it ends, and what becomes of its place."""

import asyncio
import gc
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from phr_refresh.adapters.browser import HttpRequest
from phr_refresh.statemachine.effects import Phase, StatusReport
from phr_refresh.statemachine.errors import StoreUnavailable
from support.contract import ADA, BOB, BROKEN, DONE, GOING_ON, KINDS, VALIDATORS, Answered, Visit, visiting


@pytest.fixture(params=KINDS)
def visit(request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit to each kind of host in turn, whose refresh has just begun."""
    with visiting(request.param) as opened:
        opened.begin()
        yield opened


def parsed(text: str) -> list[dict[str, str]]:
    """The blocks of a stream, field by field; a comment is the field with an empty name (HTML Standard, 9.2.6)."""
    assert text.endswith("\n\n")
    blocks = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = [line.partition(":") for line in block.split("\n")]
        assert len(fields) == len({name for name, _, _ in fields})
        blocks.append({name: value.removeprefix(" ") for name, _, value in fields})
    return blocks


def statuses(visit: Visit, answered: Answered) -> list[tuple[str, Any]]:
    """Each event of a stream that is read to its end: its id and its status."""
    blocks = parsed("".join(visit.chunks(answered)))
    assert {"retry"} == blocks[0].keys()
    events = [block for block in blocks if "event" in block]
    assert [("status", {"event", "id", "data"})] * len(events) == [(event["event"], event.keys()) for event in events]
    for event in events:
        describe(event)
    return [(event["id"], json.loads(event["data"])) for event in events]


def describe(event: dict[str, str]) -> None:
    """Fails unless the OpenAPI document describes this event, and its data."""
    VALIDATORS["Event"].validate(event)
    VALIDATORS["Status"].validate(json.loads(event["data"]))


def test_a_stream_tells_each_change_in_order(visit: Visit) -> None:
    """The first status at once, then each that differs, then the end of the stream with the end of the refresh."""
    visit.upstream.tells = StatusReport(Phase.IN_PROGRESS)
    visit.upstream.story += [(3, GOING_ON), (6, DONE)]
    answered = visit.get("events")
    assert (200, "text/event-stream") == (answered.status, answered.headers["Content-Type"])
    assert ("no-store", "no") == (answered.headers["Cache-Control"], answered.headers["X-Accel-Buffering"])
    told = statuses(visit, answered)
    assert [("refreshing", 0), ("refreshing", 2), ("complete", 2)] == [
        (status["state"], len(status["extracts"])) for _, status in told
    ]
    assert 3 == len({event_id for event_id, _ in told})
    assert visit.get().json == told[-1][1]
    assert f'W/"{told[-1][0]}"' == visit.get().headers["ETag"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_comes_before_the_refresh_waits_for_it(kind: str) -> None:
    """A login has handed its work over, and no worker has taken it up yet."""
    with visiting(kind) as visit:
        chunks = visit.chunks(visit.get("events"))
        told = [next(chunks), next(chunks)]
        visit.begin()
        visit.upstream.story.append((5, DONE))
        events = parsed("".join([*told, *chunks]))[1:]
        assert ["no_session", "refreshing", "complete"] == [json.loads(event["data"])["state"] for event in events]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_where_nothing_begins_ends_soon(kind: str) -> None:
    """And its browser is told to stop when it comes back."""
    with visiting(kind) as visit:
        ((last_id, status),) = statuses(visit, visit.get("events"))
        assert ("no_session", 2) == (status["state"], visit.seconds)
        assert 204 == visit.get("events", last_event_id=last_id).status


@pytest.mark.parametrize("report", [DONE, BROKEN], ids=["well", "badly"])
def test_who_has_seen_the_end_is_told_to_stop(visit: Visit, report: StatusReport) -> None:
    """204 for a browser that comes back with the id of the settled status: it does not connect again."""
    visit.upstream.story.append((2, report))
    last_id, _ = statuses(visit, visit.get("events"))[-1]
    answered = visit.get("events", last_event_id=last_id)
    assert (204, b"", "no-store") == (answered.status, answered.body, answered.headers["Cache-Control"])


def test_who_has_missed_the_end_is_told(visit: Visit) -> None:
    """A browser that comes back with an older id, or none, gets the settled status and the end of the stream."""
    visit.upstream.tells = DONE
    visit.clock.tick(1)
    for seen in ({"last_event_id": "older"}, {}):
        told = statuses(visit, visit.get("events", **seen))
        assert ["complete"] == [status["state"] for _, status in told]
    assert [] == visit.slept


def test_who_comes_back_is_not_told_again(visit: Visit) -> None:
    """A browser that has seen the status of now is told the next one first."""
    visit.upstream.story.append((4, DONE))
    seen = visit.get().headers["ETag"].removeprefix("W/").strip('"')
    visit.upstream.tells = StatusReport(Phase.IN_PROGRESS)
    assert ["complete"] == [status["state"] for _, status in statuses(visit, visit.get("events", last_event_id=seen))]


def test_a_silent_stream_shows_that_it_lives(visit: Visit) -> None:
    """A comment whenever nothing was said for the heartbeat's time; it is no event."""
    visit.upstream.tells = StatusReport(Phase.IN_PROGRESS)
    visit.upstream.story.append((50, DONE))
    visit.serve(heartbeat=timedelta(seconds=15))
    blocks = parsed("".join(visit.chunks(visit.get("events"))))
    assert [{"": ""}] * 3 == blocks[2:-1]
    assert ["retry", "event", "event"] == [next(iter(block)) for block in (*blocks[:2], blocks[-1])]


def test_a_stream_ends_after_its_longest_time(visit: Visit) -> None:
    """The browser connects again by itself, and says what it has seen last."""
    visit.serve(longest_stream=timedelta(seconds=10))
    statuses(visit, visit.get("events"))
    assert 10 == pytest.approx(visit.seconds)


def test_without_a_place_a_stream_is_one_event(visit: Visit) -> None:
    """One status and the end, where too many wait already: the browser comes back, not more often than it may ask."""
    visit.clock.tick(250)
    visit.get()
    visit.serve(places=0)
    blocks = parsed("".join(visit.chunks(visit.get("events"))))
    assert [["retry"], ["event", "id", "data"]] == [list(block) for block in blocks]
    assert ("13500", []) == (blocks[0]["retry"], visit.slept)


def test_a_settled_stream_takes_no_place(visit: Visit) -> None:
    """What ends at once is in nobody's way, even before it is read."""
    visit.upstream.tells = DONE
    visit.clock.tick(1)
    visit.serve(places=1)
    stream = visit.get("events")
    visit.begin(BOB)
    assert "Preference-Applied" in visit.get("status", BOB, prefer="wait=1").headers
    assert ["complete"] == [status["state"] for _, status in statuses(visit, stream)]


def is_free(visit: Visit) -> bool:
    """Whether there is a place to wait in."""
    return "Preference-Applied" in visit.get(prefer="wait=1").headers


def test_an_open_stream_holds_a_place_until_it_ends(visit: Visit) -> None:
    """The place is free again at the end of the stream."""
    visit.serve(places=1, longest_stream=timedelta(seconds=5))
    stream = visit.get("events")
    assert not is_free(visit)
    list(visit.chunks(stream))
    assert is_free(visit)


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_leaving_a_stream_gives_its_place_back(visit: Visit, pieces: int) -> None:
    """Closed before the first piece, or after some: once, and as often as it is closed."""
    visit.serve(places=1)
    stream = visit.get("events")
    chunks = visit.chunks(stream)
    for _ in range(pieces):
        next(chunks)
    assert not is_free(visit)
    visit.leave(stream)
    visit.leave(stream)
    assert is_free(visit)
    assert [] == list(visit.chunks(stream))


@pytest.mark.parametrize("pieces", [0, 2])
def test_dropping_a_stream_gives_its_place_back(visit: Visit, pieces: int) -> None:
    """A server that forgets to close it harms nobody for longer than the garbage collector takes."""
    visit.serve(places=1)
    stream = visit.get("events")
    chunks = visit.chunks(stream)
    for _ in range(pieces):
        next(chunks)
    chunks.close()
    del stream, chunks
    gc.collect()
    assert is_free(visit)


def test_an_outage_of_the_store_is_waited_out(visit: Visit) -> None:
    """The stream lives on: a browser that connects again and is told 503 would never come back."""
    visit.upstream.story.append((20, DONE))
    stream = visit.get("events")
    status = visit.phr.status

    def down_for_a_while() -> None:
        visit.phr.status = broken if 3 < visit.seconds < 15 else status

    def broken(who: object) -> object:
        raise StoreUnavailable("of the records", "timed_out")

    visit.meanwhile = down_for_a_while
    assert ["refreshing", "complete"] == [told["state"] for _, told in statuses(visit, stream)][::2]


def test_what_breaks_a_stream_gives_its_place_back(visit: Visit) -> None:
    """An error that is not ours is the server's to see."""
    visit.serve(places=1)
    stream = visit.get("events")
    status = visit.phr.status

    def broken(who: object) -> object:
        raise ZeroDivisionError

    visit.phr.status = broken
    with pytest.raises(ZeroDivisionError):
        list(visit.chunks(stream))
    visit.phr.status = status
    assert is_free(visit)


@pytest.mark.parametrize("path", ["events", "status"])
def test_a_request_that_is_cancelled_gives_its_place_back(path: str) -> None:
    """A client that goes away while it waits, on asyncio: the task is cancelled, the place is free, others wait on."""
    with visiting("asyncio") as visit:
        visit.begin()
        visit.serve(places=1)
        hangs = asyncio.Event()

        async def hang(_: float) -> None:
            hangs.set()
            await asyncio.Event().wait()

        visit.host._sleep = hang

        async def go_away() -> None:
            answer = asyncio.create_task(visit.host.answer(HttpRequest("GET", path, ADA, True, {"prefer": "wait=9"})))
            task: asyncio.Task[Any] = answer
            if path == "events":
                chunks = (await answer).chunks
                task = asyncio.create_task(drain(chunks))
            await hangs.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async def drain(chunks: Any) -> None:
            async for _ in chunks:
                pass

        visit.runner.run(go_away())
        places = visit.host._places
        assert places.acquire(blocking=False)
        places.release()
