"""Does what each line on standard input says, with whichever build of phr-refresh its path has; answers in lines.

A line is a JSON list: a verb and a user id. It uses nothing but what every version has.
"""

import json
import random
import sys
from datetime import timedelta
from pathlib import Path

import phr_refresh
from phr_refresh import Patient, PhrRefresh, PhrRefreshError, Policy, SessionUnavailable
from phr_refresh.adapters.workers.inline import InlineWorker

POLICY = Policy(login_budget=timedelta(seconds=30), refresh_deadline=timedelta(seconds=float(sys.argv[1])))


def patient(user: str) -> Patient:
    """A synthetic patient by the number in the user id."""
    return Patient(user, f"1012345678V{int(user.rpartition('-')[2]):06}", "12345")


def perform(phr: PhrRefresh, worker: InlineWorker, verb: str, user: str) -> dict[str, object]:
    """What came of one verb."""
    if verb == "where":
        return {"path": str(Path(phr_refresh.__file__).parent)}
    if verb == "many":
        return {"failed": sorted(set(many(phr, worker, seed=int(user))))}
    if verb == "everybody":
        return {"ids": [phr.refresh(patient(f"user-{number}")).refresh_id for number in range(int(user))]}
    if verb == "follow":
        return {"ran": worker.run_later()}
    if verb == "sweep":
        done = phr.sweep(int(user))
        return {"due": done.due, "moved": done.moved, "unreadable": done.unreadable}
    if verb in ("status", "ask"):
        status = phr.status(patient(user) if verb == "ask" else user)
        failure = status.failure and status.failure.code
        return {"state": status.state.value, "refresh_id": status.refresh_id, "failure": failure}
    if verb == "explain":
        return {"why": phr.explain(user).why}
    receipt = phr.login(patient(user)) if verb == "login" else phr.refresh(patient(user))
    return {"kind": receipt.kind.value, "refresh_id": receipt.refresh_id, "reason": receipt.reason}


def many(phr: PhrRefresh, worker: InlineWorker, *, seed: int) -> list[str]:
    """Hundreds of verbs for 20 users in an order of chance; what failed."""
    order, failed = random.Random(seed), []
    for _ in range(300):
        someone = patient(f"user-{order.randrange(20)}")
        verb = order.choice(["login", "login", "status", "status", "logout", "session", "sweep", "follow", "explain"])
        try:
            if verb == "sweep":
                failed += ["unreadable"] * phr.sweep().unreadable
            elif verb == "follow":
                worker.run_later()
            elif verb == "explain":
                phr.explain(someone.user_id)
            elif verb == "login":
                reason = phr.login(someone).reason
                failed += [reason] if reason in ("record_unreadable", "internal_error", "store_unavailable") else []
            else:
                {"status": phr.status, "session": phr.session, "logout": phr.logout}[verb](someone)
        except SessionUnavailable:
            # Somebody logged the patient out meanwhile.
            continue
        except PhrRefreshError as error:
            failed.append(f"{verb}: {error}")
    return failed


def main() -> None:
    """Answer each line."""
    worker = InlineWorker()
    with PhrRefresh.from_env(worker=worker, policy=POLICY) as phr:
        for line in sys.stdin:
            verb, user = json.loads(line)
            try:
                said = perform(phr, worker, verb, user)
            except PhrRefreshError as error:
                said = {"error": str(error)}
            print(json.dumps(said), flush=True)


main()
