"""docs/operations.md says what the code does: metrics, warnings, alerts."""

import ast
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import phr_refresh
import promql_parser
import pytest
from phr_refresh.adapters import driver
from phr_refresh.adapters.logs import WARNINGS
from phr_refresh.adapters.metrics.definitions import METRICS, Kind
from phr_refresh.adapters.metrics.documents import metrics_table, warnings_table
from phr_refresh.adapters.metrics.labels import REASONS, VALUES
from phr_refresh.statemachine import draft
from phr_refresh.statemachine import effects as facts

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
FOLDERS = [Path(module.__file__).parent for module in (facts, driver, phr_refresh)]
SOURCES = [path for folder in FOLDERS for path in folder.rglob("*.py") if "simulator" not in path.parts]
#: Names that are put together when they are told, or given.
DEFERRED = {"login_deferred", "logout_deferred"}
PUT_TOGETHER = {
    "f'{hook}_deferred'": DEFERRED,
    "f'{verb}_deferred'": DEFERRED,
    "fact": DEFERRED,
}
#: What an outcome that is no success is made of, and what a store raises.
FAILURES = {
    *("SessionFailed", "NeverSent", "Rejected", "AnswerLost", "CouldNotAsk", "RecordsFailed", "NotSent", "Lost"),
    *("Unroutable", "NotConnected"),
}


#: What stands beside a warning, told in its place where there is nothing to worry about.
NO_WARNINGS = {"session_deferred", "kick_off_deferred", "broker_available"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package, by the name of what is called."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""), node


def keyword(call: ast.Call, name: str, *, default: object) -> object:
    """The constant that a call gives for a keyword; anything else counts as given."""
    found = next((item.value for item in call.keywords if item.arg == name), None)
    return default if found is None else found.value if isinstance(found, ast.Constant) else True


def name_of(node: ast.expr) -> set[str]:
    """The names that the first argument of a call stands for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return PUT_TOGETHER.get(ast.unparse(node), set())


def chosen() -> set[str]:
    """The names of which one is chosen in the line above its telling: `name = "a" if ... else "b"`."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {
        part.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp) and ast.unparse(node.targets[0]) == "name"
        for part in (node.value.body, node.value.orelse)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def told_as_warnings() -> set[str]:
    """Every fact that the code tells as a warning."""
    found = {event.value for event in draft._WARNINGS} | (chosen() - NO_WARNINGS)
    for name, call in calls():
        if name == "Fact" and re.search("is_warning=(True|is_down)", ast.unparse(call)):
            assert name_of(call.args[0]) or ast.unparse(call.args[0]) == "name", ast.unparse(call)
            found |= name_of(call.args[0])
        elif name == "tell" and call.args and keyword(call, "warning", default=True):
            found |= name_of(call.args[0])
    return found


def test_every_warning_says_what_to_do() -> None:
    """The list is that of the code: none is missing, none is left over."""
    assert told_as_warnings() == set(WARNINGS)


def test_every_reason_of_a_failure_is_a_label() -> None:
    """What an adapter gives as a reason is not counted as "other", but for statuses that nobody expects."""
    found: set[str] = set()
    for name, call in calls():
        if name in FAILURES and call.args and isinstance(call.args[0], ast.Constant):
            found.add(call.args[0].value)
        given = next((item.value for item in call.keywords if item.arg in ("reason", "code")), None)
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            found.add(given.value)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in (
                "_why_lost",
                "_why_not_connected",
                "_reason",
                "_unread",
            ):
                returned = (part.value for part in ast.walk(node) if isinstance(part, ast.Return))
                found |= {part.value for part in returned if isinstance(part, ast.Constant)}
    assert {"timed_out", "dns_failed", "too_late", "worker_full", "over_budget", "protocol_error"} <= found
    # What a trace calls an effect without an answer.
    assert {"nothing"} >= {reason for reason in found if isinstance(reason, str)} - REASONS


def test_the_page_has_the_tables() -> None:
    """The tables are those that the code gives; `python -m phr_refresh.adapters.metrics.documents` prints them."""
    assert metrics_table() in PAGE
    assert warnings_table() in PAGE


def expressions() -> list[str]:
    """The alerts' expressions."""
    found = re.findall(r"^ +expr: (?:\|\n)?(.*?)\n +(?:for|labels|annotations):", PAGE, re.MULTILINE | re.DOTALL)
    return [" ".join(line.strip() for line in one.splitlines()) for one in found]


@pytest.mark.parametrize("expression", expressions())
def test_alerts_are_promql_over_what_there_is(expression: str) -> None:
    """Each parses, and names metrics and labels of the table only."""
    promql_parser.parse(expression)
    endings = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.COUNTER: ("",), Kind.GAUGE: ("",)}
    names = {metric.prometheus_name + ending: metric for metric in METRICS for ending in endings[metric.kind]}
    used = re.findall(r"(phr_refresh_\w+)(?:\{([^}]*)\})?", expression)
    assert used
    for name, selected in used:
        assert name in names
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selected):
            assert label in names[name].labels
            known = VALUES[label]
            assert set(chain(value.split("|"))) <= known | {"http_5.."}, value


def test_there_are_alerts() -> None:
    """The list that the test above goes through is not empty."""
    assert len(expressions()) >= 6
