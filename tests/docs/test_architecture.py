"""The shape of the house: which way the arrows point, who imports what, and what the distribution holds."""

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import phr_refresh
import pytest
from phr_refresh.adapters import driver
from phr_refresh.statemachine import table

ROOT = Path(__file__).resolve().parents[2]
#: From the inside out: each may import itself and what stands before it.
LAYERS = ["phr_refresh.statemachine", "phr_refresh.adapters", "phr_refresh"]
HEAVY = [
    *("django", "flask", "celery", "starlette", "fastapi"),
    *("requests", "redis", "boto3", "botocore", "cryptography"),
    *("typer", "click", "rich"),
]
FOLDERS = {
    "phr_refresh.statemachine": Path(table.__file__).parent,
    "phr_refresh.adapters": Path(driver.__file__).parent,
    "phr_refresh": Path(phr_refresh.__file__).parent,
}
#: What the inner ring may import beside the standard library: each is one module's.
OWNERS = {"transitions": {"phr_refresh.statemachine.lifecycle"}}
#: ... or any of its modules may.
MAY = {"msgspec"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package, by its import name."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            inner = parts and package == "phr_refresh" and parts[0] in ("adapters", "statemachine")
            if not inner and "__pycache__" not in parts:
                yield ".".join((package, *parts)).removesuffix(".__init__"), path


def imports_of(name: str, path: Path) -> Iterator[str]:
    """What a module imports, anywhere in it, by full names; relative imports resolved."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


MODULES = dict(modules())


def layer_of(name: str) -> int | None:
    """The layer of a module, None outside the package."""
    return next((number for number, layer in enumerate(LAYERS) if f"{name}.".startswith(f"{layer}.")), None)


def test_the_scan_sees_the_package() -> None:
    """Modules of all three layers are found, and their relative imports resolved."""
    assert {0, 1, 2} == {layer_of(name) for name in MODULES}
    name = "phr_refresh.adapters.stores.memory"
    assert "phr_refresh.statemachine.effects.TokenChange" in set(imports_of(name, MODULES[name]))


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_inward(name: str) -> None:
    """facade -> adapters -> statemachine, whether an import is absolute, relative, or inside a function."""
    own = layer_of(name)
    assert own is not None
    outward = [
        imported
        for imported in imports_of(name, MODULES[name])
        if (layer := layer_of(imported)) is not None and layer > own
    ]
    assert [] == outward


@pytest.mark.parametrize("package", OWNERS)
def test_one_module_owns_the_machine(package: str) -> None:
    """Nobody else imports their packages. What the benchmarks measure beside them is written as others would."""
    users = {
        name
        for name, path in MODULES.items()
        if not name.startswith("benchmarks.")
        and any(imported.partition(".")[0] == package for imported in imports_of(name, path))
    }
    assert OWNERS[package] == users


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) == 0])
def test_the_inner_ring_imports_the_standard_library_alone(name: str) -> None:
    """No framework, no client and no I/O in the machine and the flows, nor a clock."""
    roots = {imported.partition(".")[0] for imported in imports_of(name, MODULES[name])} - {"phr_refresh"}
    assert set() == roots - set(sys.stdlib_module_names) - set(OWNERS) - MAY
    assert set() == roots & {"time", "os", "socket", "threading", "asyncio", "logging", "random", "secrets", "uuid"}


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) == 0])
def test_the_inner_ring_reads_no_clock(name: str) -> None:
    """Time comes in through effects: nothing asks for now."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    asked = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert [] == [attribute for attribute in asked if attribute in ("utcnow", "today", "monotonic", "perf_counter")]
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [] == [call for call in calls if call in ("datetime.now", "print", "open", "input")]


def test_setup_names_every_folder_with_python_in_it() -> None:
    """`packages` cannot be found, so it is compared: each folder that holds modules is a package, and no other."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = dict(line.split(" = ") for line in setup["options"]["package_dir"].strip().splitlines())
    expected = set()
    for package, folder in folders.items():
        assert (ROOT / folder).is_dir(), folder
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(".".join((package, *path.parent.relative_to(ROOT / folder).parts)))
    assert expected == set(setup["options"]["packages"].split())


def test_every_package_has_its_init() -> None:
    """A folder without `__init__.py` would be a namespace that anybody could add to."""
    folders = {path.parent for path in MODULES.values()}
    assert [] == [folder.name for folder in sorted(folders) if not (folder / "__init__.py").exists()]


def imported_by(program: str) -> set[str]:
    """The top-level modules that a new process has after `program`."""
    folder = str(Path(phr_refresh.__file__).absolute().parent.parent)
    listing = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {program}; {listing}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import phr_refresh` in a new process brings no framework, no client and no command line."""
    found = imported_by("import phr_refresh")
    # structlog imports rich by itself wherever that is installed.
    dragged_in = imported_by("import structlog, transitions")
    assert set() == (found - dragged_in) & set(HEAVY)
    assert "transitions" in found


#: What users import beside the package, and what comes with it.
DOORS = {
    "phr_refresh.simulator": "jwt",
    "phr_refresh.hosting": "transitions",
    "phr_refresh.testing": "transitions",
    "phr_refresh.mhv": "requests, jwt",
    "phr_refresh.django": "django",
    "phr_refresh.flask": "flask",
    "phr_refresh.starlette": "starlette.requests, starlette.routing",
    "phr_refresh.celery": "celery.app, celery.signals, kombu.pools",
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_brings_nothing_heavy_but_its_own(door: str) -> None:
    """Its host's framework, or its client; neither the store's client nor another host's framework."""
    dragged_in = imported_by(f"import structlog, {DOORS[door]}")
    assert set() == (imported_by(f"import {door}") - dragged_in) & set(HEAVY)


def test_what_the_package_exports_is_there() -> None:
    """Each name of `__all__` exists, once, in order."""
    assert sorted(set(phr_refresh.__all__)) == phr_refresh.__all__
    assert [] == [name for name in phr_refresh.__all__ if not hasattr(phr_refresh, name)]


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_longer_than_it_may_be(name: str) -> None:
    """500 lines at most: then it is more than one idea."""
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 500
