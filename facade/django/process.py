"""What a process has of the library: opened at the first use, after forks anew, closed when the process ends."""

import atexit
import threading
from dataclasses import replace
from typing import Any

from django.db import close_old_connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from phr_refresh.adapters.browser import is_public
from phr_refresh.adapters.login_hooks.django import facts_of, response_to, savepoints
from phr_refresh.adapters.login_hooks.hooks import Hook, deferred, tell_failure
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.adapters.per_process import PerProcess
from phr_refresh.adapters.workers.time_limit import TimeLimit, TimeLimitExceeded
from phr_refresh.statemachine.patient import Patient

from ..embedding import read_patient_of, read_policy
from ..hosting import Embedding, FindPatient, PatientOf, Service
from .settings import settings_block


def _open() -> Service:
    embedding = Embedding.of(settings_block())
    return Service.of(replace(embedding, patient_of=_with_savepoints(embedding.patient_of)))


class Process:
    """The library in this process. Thread-safe."""

    def __init__(self) -> None:
        self._opened = PerProcess(_open)
        self._time_limit = TimeLimit(threads=2)
        # It keeps this object for ever: there is one per process.
        atexit.register(self.close)

    def opened(self) -> Service:
        """What is open, and opened now if nothing is. Raises `ConfigurationError`, `MissingExtra`."""
        return self._opened.get()

    def close(self) -> None:
        """Close what is open. The next use opens it anew."""
        found = self._opened.take()
        if found is not None:
            found.close()

    # The hooks.

    def logged_in(self, user: Any) -> None:
        """To be called when `user` has logged in. Never raises, and does not wait long (rule R5)."""
        self._hook("login", user)

    def logged_out(self, user: Any) -> None:
        """To be called when `user` logs out. The same holds."""
        self._hook("logout", user)

    def _hook(self, verb: Hook, user: Any) -> None:
        try:
            opened = self._opened.made
            if opened is None:
                self._first(verb, user)
            else:
                _call(opened, verb, lambda: opened.embedding.patient_of(user))
        except Exception as error:
            tell_failure(LogObserver(), verb, error)

    def _first(self, verb: Hook, user: Any) -> None:
        """A hook before anything is open: modules are imported and secrets read, which can take longer than a login."""
        block = settings_block()
        # In this thread: the host's connections to its database belong to it.
        patient = _with_savepoints(read_patient_of(block.get("patient_of")))(user)
        if patient is None:
            return
        # Whoever has it tells when this takes too long: the hook here as long as it waits for the opening, the one of
        # what is open afterwards.
        turn = threading.Lock()

        def work() -> None:
            opened = self.opened()
            if turn.acquire(blocking=False):
                _call(opened, verb, lambda: patient)
            elif verb == "login":
                # What a worker would do. Not the hook: that this login is late has been told.
                opened.refresher.refresh(patient)
            else:
                opened.refresher.logout(patient)

        try:
            self._time_limit.call(work, seconds=read_policy(block.get("policy")).login_budget.total_seconds())
        except TimeLimitExceeded:
            if turn.acquire(blocking=False):
                deferred(verb, "over_budget", LogObserver())

    # The endpoints.

    def patient(self, request: HttpRequest) -> Patient | None:
        """The patient whose session the request carries. Raises what the host's `patient_of` raises."""
        user = request.user
        return self.opened().embedding.patient_of(user) if user.is_authenticated else None

    def answer(self, request: HttpRequest, path: str) -> HttpResponseBase:
        """The answer to a request for `path`, which is below the mount point."""
        opened = self.opened()
        # What is the same for everybody may be cached: no session is looked into, or its cookie would go along.
        is_logged_in = not is_public(path) and request.user.is_authenticated
        patient = self.patient(request) if is_logged_in else None
        # The answer may take its time, and needs no connection to the host's database.
        close_old_connections()
        facts = facts_of(request, path, patient=patient, is_logged_in=is_logged_in)
        has_threads = request.META.get("wsgi.multithread", True)
        host = opened.host if has_threads else opened.host_without_threads
        return response_to(request, host.answer(facts))


def _with_savepoints(patient_of: PatientOf) -> PatientOf:
    def find(user: Any) -> Patient | None:
        with savepoints():
            return patient_of(user)

    return find


def _call(opened: Service, verb: Hook, find: FindPatient) -> None:
    if verb == "login":
        opened.hooks.logged_in(find)
    else:
        opened.hooks.logged_out(find)
