"""Telling observers: one, or several as one. Their failures stay theirs."""

import logging

from ..statemachine.facts import Fact
from .ports import Observer


def tell(observer: Observer, fact: Fact) -> None:
    """Tell `observer`, whose failures must not become those of a login or of a refresh."""
    try:
        observer(fact)
    except Exception as error:
        logging.getLogger("phr_refresh").error("phr_refresh.observer_failed (%s)", type(error).__name__)


class Observers:
    """Tells each of `observers` every fact, in this order. One that raises does not keep the others from hearing."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def __call__(self, fact: Fact) -> None:
        """Tell all of them."""
        for observer in self._observers:
            tell(observer, fact)
