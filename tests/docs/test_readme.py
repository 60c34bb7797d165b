"""What the README says is so."""

import re
import subprocess
import sys
from pathlib import Path

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


def test_the_documents_it_links_to_exist() -> None:
    """Each relative link leads to a file."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [] == [link for link in links if not (ROOT / link).is_file()]


def test_it_stays_short() -> None:
    """The README has fewer than 200 lines."""
    assert len(README.splitlines()) < 200
