"""The doors: what README, docs and examples import, and that nothing behind the doors is named there."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/**/*.py")))
}
#: What users import. `test_architecture` says what each of them may bring with it.
DOORS = (
    *("phr_refresh", "phr_refresh.mhv", "phr_refresh.simulator", "phr_refresh.hosting", "phr_refresh.testing"),
    *("phr_refresh.django", "phr_refresh.flask", "phr_refresh.starlette", "phr_refresh.celery"),
)
#: Words that only stand behind the doors.
BEHIND = re.compile(r"^.*(?:phr_refresh\.(?:adapters|statemachine)|\b(?:adapters|statemachine)\.\w).*$", re.MULTILINE)


def imports_in(page: str) -> Iterator[tuple[str, str]]:
    """Each name that a page or an example imports of this library, and from which module."""
    text = PAGES[page]
    for code in [text] if page.endswith(".py") else re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "phr_refresh":
                yield from ((node.module or "", alias.name) for alias in node.names)


def test_the_pages_are_seen() -> None:
    """README, docs and examples are there, and what they import is found."""
    assert {"README.md", "docs/embedding.md", "examples/flask/portal.py", "examples/people.py"} <= set(PAGES)
    assert ("phr_refresh.mhv", "MhvUpstream") in set(imports_in("README.md"))


@pytest.mark.parametrize("page", PAGES)
def test_nothing_behind_the_doors_is_named(page: str) -> None:
    """Neither ring inside the facade: where things lie there may change."""
    assert [] == BEHIND.findall(PAGES[page])


@pytest.mark.parametrize("page", [page for page in PAGES if list(imports_in(page))])
def test_what_is_imported_is_offered(page: str) -> None:
    """Each name stands in the `__all__` of the door that it is imported from."""
    for module, name in imports_in(page):
        assert module in DOORS, f"{module} is no door"
        assert name in importlib.import_module(module).__all__


@pytest.mark.parametrize("door", DOORS)
def test_what_a_door_offers_is_there(door: str) -> None:
    """Each name once, and each can be had."""
    module = importlib.import_module(door)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [] == [name for name in module.__all__ if name not in vars(module)]
