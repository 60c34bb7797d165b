"""`manage.py phr_doctor`: what is wrong between the portal and what it runs on, by the portal's own settings."""

import json as codec

from django.core.management.base import BaseCommand, CommandError, CommandParser
from phr_refresh.adapters.doctor.findings import as_plain, faults_of
from phr_refresh.statemachine.errors import CallerError

from ....doctor import examine
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
            findings = examine(settings_block())
        except CallerError as error:
            raise CommandError(str(error), returncode=2) from error
        found = []
        for finding in findings:
            found.append(finding)
            if not json:
                self.stdout.write(finding.line)
        if json:
            self.stdout.write(codec.dumps(as_plain(found), indent=2))
        faults = faults_of(found, strict=strict)
        if faults:
            raise CommandError(f"{len(faults)} of {len(found)} findings are to be seen to.", returncode=1)
