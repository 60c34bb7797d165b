"""The Celery app of the burst, for `celery -A burst_app`."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from burst import app_of

app = app_of(os.environ["BURST_BROKER"])
