"""The upstream over HTTP: one client, its guard and settings, FHIR reads, and all of it as one object (`mhv.py`)."""
