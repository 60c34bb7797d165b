"""The simulator's own endpoints, by which other processes script faults and read the call log."""

import json

from ...statemachine.errors import ConfigurationError
from .calls import CallLog
from .faults import Fault, FaultScript
from .messages import Answer, Request, json_answer


class Controls:
    """Answers `GET /calls`, `GET /history`, `POST /faults` and `DELETE /faults`. Asks for no key, counts nothing."""

    def __init__(self, calls: CallLog, faults: FaultScript) -> None:
        self._calls = calls
        self._faults = faults

    def answer(self, request: Request) -> Answer:
        """Answer one request; 404 for anything else."""
        match request.method, request.path:
            case "GET", "/calls":
                return json_answer(200, self._calls.summary())
            case "GET", "/history":
                return json_answer(200, self._calls.history_json())
            case "POST", "/faults":
                return self._script(request.body)
            case "DELETE", "/faults":
                self._faults.clear()
                return Answer(204)
            case _:
                return json_answer(404, {"error": "The simulator has no such path."})

    def _script(self, body: bytes) -> Answer:
        try:
            fault = Fault.from_json(json.loads(body))
        except ConfigurationError as error:
            return json_answer(400, {"error": str(error)})
        except (ValueError, RecursionError):
            return json_answer(400, {"error": "The body is not JSON; send one object with endpoint and kind."})
        self._faults.add(fault)
        return json_answer(201, {"endpoint": fault.endpoint, "kind": fault.kind})
