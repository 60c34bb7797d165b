"""The directory of patients for the command line: a JSON file, so that no identifier stands on a command line."""

import json
from pathlib import Path

from phr_refresh.statemachine.errors import ConfigurationError, UnknownPatient
from phr_refresh.statemachine.patient import Patient

_FORM = 'a JSON object such as {"ada": {"icn": "...", "mhv_correlation_id": "..."}}'


class Directory:
    """Finds patients by user id in a JSON file. The file is read at each look-up."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def patient(self, user_id: str) -> Patient:
        """The patient. Raises `ConfigurationError`, `UnknownPatient`, `InvalidPatient`."""
        entry = self._entries().get(user_id)
        if entry is None:
            raise UnknownPatient(f"the directory of patients {self._path}")
        if not isinstance(entry, dict) or "icn" not in entry:
            raise ConfigurationError(f"directory of patients {self._path}", "an entry has no icn", f"write {_FORM}")
        return Patient(user_id, entry["icn"], entry.get("mhv_correlation_id"))

    def _entries(self) -> dict[str, object]:
        setting = f"directory of patients {self._path}"
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigurationError(setting, f"it cannot be read ({error.strerror})", "check the path") from None
        except (ValueError, RecursionError):
            raise ConfigurationError(setting, "it is not JSON", f"write {_FORM}") from None
        if not isinstance(entries, dict):
            raise ConfigurationError(setting, "it is not a JSON object", f"write {_FORM}")
        return entries
