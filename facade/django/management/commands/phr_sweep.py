"""`manage.py phr_sweep`: apply what is due for patients whom nobody asks about."""

from argparse import ArgumentTypeError

from django.core.management.base import BaseCommand, CommandParser

from ....cli.views import sweep_lines
from . import shown


class Command(BaseCommand):
    """An optimisation, for cron: whoever reads a record applies what is due to it."""

    help = "Apply what is due for patients whom nobody asks about."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """How many, and how to print."""
        parser.add_argument("--limit", type=_count, default=1000, help="At most so many patients (default: 1000).")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *, limit: int, json: bool, **_: object) -> None:
        """Print what was done."""
        self.stdout.write(shown(lambda phr: phr.sweep(limit), sweep_lines, json_wanted=json))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("give a whole number from 1 on")
    return int(text)
