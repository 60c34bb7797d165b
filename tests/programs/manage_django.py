"""A Django project's `manage.py`. Store and upstream come from the environment."""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line


def patient_of(user):
    """Nobody logs in here."""


settings.configure(
    SECRET_KEY="nothing is signed here",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "phr_refresh.django"],
    PHR_REFRESH={"patient_of": patient_of},
)
execute_from_command_line(sys.argv)
