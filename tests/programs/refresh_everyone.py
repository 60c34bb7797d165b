"""Refreshes `user-0` to `user-N`, beginning when a line comes in; prints one receipt per line as JSON."""

import json
import sys

from phr_refresh import Patient, PhrRefresh

with PhrRefresh.from_env() as phr:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[1])):
        receipt = phr.refresh(Patient(f"user-{number}", f"{number:010}V123456", "12345"))
        print(json.dumps([receipt.kind, receipt.refresh_id]))
