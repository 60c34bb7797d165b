"""Adds one to the number in a record, `argv[2]` times, beginning when a line comes in."""

import sys
from contextlib import closing

from phr_refresh.adapters.ports import Change, Written
from phr_refresh.adapters.stores.sqlite import SqliteStore
from phr_refresh.statemachine.effects import Load
from phr_refresh.statemachine.patient import key_of

KEY = key_of("ada")

print("ready", flush=True)
sys.stdin.readline()
with closing(SqliteStore(sys.argv[1], busy_timeout=30)) as store:
    row = store.call(Load(KEY))
    done = 0
    while done < int(sys.argv[2]):
        change = Change(
            key=KEY,
            value=b"%d" % (int(row.value or 0) + 1),
            expected_version=row.version,
            decided_at=row.now,
            max_age=600_000,
            due_at=None,
            keep_until=row.now + 3_600_000,
        )
        answer = store.call(change)
        done += isinstance(answer, Written)
        row = store.call(Load(KEY)) if isinstance(answer, Written) else answer
