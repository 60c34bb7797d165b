"""`manage.py phr_explain USER_ID`: why a patient's refresh stands where it stands."""

from django.core.management.base import BaseCommand, CommandParser

from ....cli.views import explanation_lines
from . import shown


class Command(BaseCommand):
    """Reads the store, and changes nothing but what is due."""

    help = "Explain a user's refresh: state, why, what was refused last, what is possible now, what happens next."
    # For the people on call: what else is wrong with the project must not stop them.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """The user, and how to print."""
        parser.add_argument("user_id", help="The `user_id` of the Patient that patient_of makes of the user.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *, user_id: str, json: bool, **_: object) -> None:
        """Print the explanation."""
        self.stdout.write(shown(lambda phr: phr.explain(user_id), explanation_lines, json_wanted=json))
