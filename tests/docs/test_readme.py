"""What the README says is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_program_runs() -> None:
    """The program in the README prints what its comments say."""
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    said = re.findall(r"print\(.*\)  # (\w+)", program)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ("", said) == (done.stderr, done.stdout.split())


def test_continuous_integration_runs_the_test_command() -> None:
    """The command that the README gives for the tests is the one that .ci/run calls."""
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name)
def test_the_documents_that_are_linked_to_exist(page: Path) -> None:
    """Each relative link, in the README and in docs, leads to a file."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [] == [link for link in links if not (page.parent / link).is_file()]


def test_it_stays_short() -> None:
    """The README has at most 90 lines, and its program twelve."""
    assert len(README.splitlines()) <= 90
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in program.splitlines() if line]) <= 12
