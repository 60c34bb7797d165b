"""The endpoints, to be included: ``path("phr/", include("phr_refresh.django.urls"))``.

Templates name one by its path: ``{% url "phr_refresh:endpoint" "status" %}``.
"""

from django.db import connections, transaction
from django.urls import path

from .views import answer

app_name = "phr_refresh"

# A request that waits for news must not hold a transaction of the host's open (ATOMIC_REQUESTS).
for _alias in connections:
    answer = transaction.non_atomic_requests(_alias)(answer)

urlpatterns = [path("<path:path>", answer, name="endpoint")]
