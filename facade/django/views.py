"""The one view: Django's request in, the contract's answer out."""

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_protect
from phr_refresh.adapters.browser import problem
from phr_refresh.adapters.driver import tell
from phr_refresh.adapters.login_hooks.django import response_to
from phr_refresh.adapters.login_hooks.hooks import told_of
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.statemachine.effects import Fact

from . import this_process


# Whether or not the host has CsrfViewMiddleware.
@csrf_protect
def answer(request: HttpRequest, path: str) -> HttpResponseBase:
    """The answer to a request for `path`, which is below the mount point."""
    try:
        return this_process().answer(request, path)
    except Exception as error:
        # Not Django's to see: the text of an error in `patient_of` may name the patient, and Django logs it (rule R7).
        tell(LogObserver(), Fact("request_failed", details={"error": told_of(error)}, is_warning=True))
        return response_to(request, problem(500, "internal_error", "This failed; call the people who run this."))
