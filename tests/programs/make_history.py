"""Refreshes, polls and logs out five patients in a random order, beginning when a line comes in; records it all.

The window is so short that many pass. Arguments: the store's URL, the file of the history, the seed.
"""

import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random

from phr_refresh import Patient, PhrRefresh, Policy, open_store
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.testing.history import HistoryFile, RecordedStore

url, path, seed = sys.argv[1:]
random = Random(seed)
file = HistoryFile(Path(path))
store = RecordedStore(open_store(url), file, pseudonym_key=b"of the test")
people = [Patient(f"user-{number}", f"{number:010}V123456", "12345") for number in range(5)]

policy = Policy(
    refresh_window=timedelta(milliseconds=300),
    refresh_deadline=timedelta(milliseconds=200),
    poll_schedule=(),
    poll_interval=timedelta(milliseconds=20),
)
phr = PhrRefresh(store=store, upstream=MhvUpstream(MhvSettings.from_env()), worker=InlineWorker(), policy=policy)

with closing(file), closing(phr):
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(40):
        verb = random.choice([phr.refresh, phr.status, phr.status, phr.logout])
        verb(random.choice(people))
