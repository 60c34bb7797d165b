"""The list of contestants. Each is imported when it is opened: what is not installed is left out, and said to be."""

from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from ..place import Place
from ..works import Work
from . import AsyncContestant, Contestant, Entry

#: Longer by far than `ours.SETTLES_SECONDS`, whose module is not imported before it is opened.
_POLL_SECONDS: Final = 0.15


def _opener(module: str, name: str) -> Callable[[Place], Contestant | AsyncContestant]:
    def open_(place: Place) -> Contestant | AsyncContestant:
        found = vars(import_module(f"{__package__}.{module}"))[name]
        return cast("Contestant | AsyncContestant", found(place))

    return open_


ENTRIES: Final = (
    Entry(name="floor", text="bare redis-py: the same bytes, nothing decided", open=_opener("floor", "open_floor")),
    Entry(name="phr-refresh", text="PhrRefresh", open=_opener("ours", "open_ours"), settles_in=_POLL_SECONDS),
    Entry(
        name="portal",
        text="today's portal design: SET NX EX lock, waits of 1 s, every poll passed on",
        open=_opener("portal", "open_portal"),
        remark="a logout and a login kick off again; a status read costs an upstream call, which answers at once here",
    ),
    Entry(
        name="transitions",
        text="transitions, a Machine per user, WATCH and MULTI",
        open=_opener("transitions_watch", "open_transitions"),
        remark="no deadlines, no lost answers, each host's own clock",
    ),
    Entry(
        name="statemachine",
        text="python-statemachine, a redis-py Lock",
        open=_opener("statemachine_lock", "open_statemachine"),
        remark="no deadlines, no lost answers, each host's own clock, a lock that can expire under its holder",
    ),
    Entry(
        name="dbos",
        text="DBOS on SQLite, a workflow per patient and window",
        open=_opener("durable", "open_durable"),
        works=frozenset({Work.FIRST_LOGIN, Work.REPEAT_LOGIN, Work.STATUS_READ, Work.CROWD, Work.MANY}),
        share=0.02,
        remark="its own database; no logout and no polling here; windows by the clock",
    ),
    Entry(
        name="celery-once",
        text="celery-once: the hand-over of the job alone",
        open=_opener("celery_jobs", "open_once"),
        works=frozenset({Work.FIRST_LOGIN, Work.REPEAT_LOGIN}),
        remark="the job is not run; its lock ends with the job, so there is no window",
    ),
    Entry(
        name="celery-singleton",
        text="celery-singleton: the hand-over of the job alone",
        open=_opener("celery_jobs", "open_singleton"),
        works=frozenset({Work.FIRST_LOGIN, Work.REPEAT_LOGIN}),
        remark="the job is not run; its lock ends with the job, so there is no window",
    ),
    Entry(
        name="floor-async",
        text="bare redis.asyncio",
        open=_opener("floor_async", "open_async_floor"),
        floor="floor-async",
        is_async=True,
    ),
    Entry(
        name="phr-refresh-async",
        text="AsyncPhrRefresh",
        open=_opener("ours", "open_async_ours"),
        settles_in=_POLL_SECONDS,
        floor="floor-async",
        is_async=True,
    ),
)


def entry(name: str) -> Entry:
    """The contestant of that name."""
    return next(item for item in ENTRIES if item.name == name)
