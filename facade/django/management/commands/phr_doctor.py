"""`manage.py phr_doctor`: what is wrong between the portal and what it runs on, by the portal's own settings."""

import json as codec

from django.core.management.base import BaseCommand, CommandError, CommandParser
from phr_refresh.adapters.doctor.findings import Level, counts_of, line_of
from phr_refresh.statemachine.errors import CallerError

from ....cli.examining import Doctor
from ....cli.views import as_json
from ...settings import settings_block


class Command(BaseCommand):
    """Changes nothing but a key that no patient has; the upstream is asked nothing."""

    help = "Examine secrets, sealing, store and upstream: a line for each finding, and what to do about it."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """What fails, and how to print."""
        parser.add_argument("--strict", action="store_true", help="Exit with 1 for warnings, too.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *, strict: bool, json: bool, **_: object) -> None:
        """Print each finding as it is made. Raises `CommandError` if something is wrong."""
        try:
            doctor = Doctor.of(settings_block())
        except CallerError as error:
            raise CommandError(str(error), returncode=2) from error
        found = []
        for finding in doctor.examine():
            found.append(finding)
            if not json:
                self.stdout.write(line_of(finding))
        if json:
            self.stdout.write(codec.dumps({"findings": as_json(found), "counts": counts_of(found)}, indent=2))
        bad = [
            finding
            for finding in found
            if finding.level in ((Level.ERROR, Level.WARNING) if strict else (Level.ERROR,))
        ]
        if bad:
            raise CommandError(f"{len(bad)} of {len(found)} findings are to be seen to.", returncode=1)
