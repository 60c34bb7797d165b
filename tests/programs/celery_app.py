"""The Celery app of a host, for `celery -A celery_app`; its settings come from the environment."""

import json
import os

from support.celery_host import make_app

app = make_app(**json.loads(os.environ["CELERY_HOST"]))
