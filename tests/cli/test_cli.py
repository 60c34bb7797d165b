"""The command line: what it prints, its exit codes, and one clear sentence for each thing that can be wrong."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from phr_refresh.adapters.simulator import Fault, Simulator

ICN = "1012345678V123456"
COMMANDS = ("demo", "simulator", "login", "status", "explain", "diagram", "sweep", "check-history")


class CommandLine:
    """Runs `phr-refresh` in a process of its own, with a folder and an environment of its own."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.folder = folder
        self.patients = folder / "patients.json"
        self.patients.write_text(
            json.dumps({"ada": {"icn": ICN, "mhv_correlation_id": "12345"}, "bob": {"icn": "101/../8V123456"}})
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PHR_REFRESH_")}
        self.environ = kept | {
            "PHR_REFRESH_STORE": f"sqlite:///{folder / 'store.db'}",
            "PHR_REFRESH_PATIENTS": str(self.patients),
            "PHR_REFRESH_MHV_URL": simulator.url,
            "PHR_REFRESH_APP_TOKEN": simulator.app_token,
            "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
            "COLUMNS": "200",
        }

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error; an empty value unsets a variable."""
        changed = {name: value for name, value in (self.environ | environ).items() if value}
        command = [sys.executable, "-m", "phr_refresh", *arguments]
        done = subprocess.run(
            command, env=changed, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, a hundred times as fast as recorded."""
    with Simulator(speed=100) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, simulator: Simulator) -> CommandLine:
    """The command line, set up for the simulator."""
    return CommandLine(tmp_path, simulator)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(cli: CommandLine, command: str) -> None:
    """`--help` of each command shows an example of it."""
    code, out, _ = cli(command, "--help")
    assert 0 == code
    assert f"Example: phr-refresh {command}" in out


def test_a_login_runs_to_the_end_and_is_remembered(cli: CommandLine, simulator: Simulator) -> None:
    """`login --follow` ends complete; `status`, `explain` and `sweep` tell so, and another login starts nothing."""
    code, out, _ = cli("login", "ada", "--follow")
    assert 0 == code
    assert ["started", "complete"] == [line.split()[0] for line in out.splitlines() if line[0] != " "][:3:2]

    code, out, _ = cli("status", "ada", "--json")
    assert (0, "complete") == (code, json.loads(out)["state"])
    assert 4 == len(json.loads(out)["extracts"])
    code, out, _ = cli("explain", "ada")
    assert 0 == code
    assert "The upstream reported the end of this window's refresh." in out
    assert "refresh_claimed    refused" in out
    assert "fresh" == json.loads(cli("login", "ada", "--json")[1])["kind"]
    expected = {"due": 0, "moved": 0, "conflicts": 0, "unreadable": 0, "moves": {}}
    assert expected == json.loads(cli("sweep", "--json")[1])
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_following_a_refresh_that_another_started_goes_on_to_its_end(cli: CommandLine) -> None:
    """`login --follow` of a patient whose refresh runs already stays until it has ended, and prints one object."""
    assert "started" == json.loads(cli("login", "ada", "--json")[1])["kind"]
    code, out, _ = cli("login", "ada", "--follow", "--json")
    assert (0, "complete") == (code, json.loads(out)["state"])


def test_a_refused_key_is_named(cli: CommandLine) -> None:
    """A wrong key for the kick-off is said to be the thing to check."""
    code, _, err = cli("login", "ada", PHR_REFRESH_AUTHORIZATION_KEY="wrong")
    assert 1 == code
    assert "refused us (http_401); check PHR_REFRESH_APP_TOKEN, _AUTHORIZATION_KEY" in err


def test_an_interrupted_demo_stops_at_once(cli: CommandLine) -> None:
    """Ctrl-C ends the demo with one word and exit code 1, without a traceback, before its refreshes end."""
    command = [sys.executable, "-m", "phr_refresh", "demo", "--patients", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=cli.environ, **pipes) as process:
        assert "patient" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (1, "Interrupted.") == (process.returncode, err.strip())
    assert "sequenceDiagram" not in out


def test_a_folder_that_cannot_be_written_is_said(cli: CommandLine) -> None:
    """`diagram --write` into something that is no folder fails with one line."""
    (cli.folder / "file").write_text("")
    code, _, err = cli("diagram", "--write", "file/inside")
    assert 1 == code
    assert "check the path" in err
    assert 1 == len(err.splitlines())


def test_a_user_whom_nobody_knows_has_no_session(cli: CommandLine) -> None:
    """Without a directory of patients, `status` and `explain` of a user never seen say just that."""
    code, out, _ = cli("status", "nobody", PHR_REFRESH_PATIENTS="")
    assert (0, "no-session (never seen)\n") == (code, out)
    assert "Never seen" in cli("explain", "nobody")[1]


SENTENCES = {
    "unknown scheme": (
        ("status", "ada"),
        {"PHR_REFRESH_STORE": "ftp://store"},
        (2, "store URL", "sqlite"),
    ),
    "store down": (
        ("status", "ada"),
        {"PHR_REFRESH_STORE": "redis://127.0.0.1:1"},
        (1, "127.0.0.1:1", "unavailable", "check that it runs"),
    ),
    "upstream down": (
        ("login", "ada"),
        {"PHR_REFRESH_MHV_URL": "http://127.0.0.1:1"},
        (1, "could not be reached (connection_refused)", "check PHR_REFRESH_MHV_URL"),
    ),
    "wrong upstream URL": (
        ("login", "ada"),
        {"PHR_REFRESH_MHV_URL": "mhv.example"},
        (2, "PHR_REFRESH_MHV_URL"),
    ),
    "missing secret": (
        ("login", "ada"),
        {"PHR_REFRESH_APP_TOKEN": ""},
        (2, "PHR_REFRESH_APP_TOKEN"),
    ),
    "unreadable secret": (
        ("login", "ada"),
        {"PHR_REFRESH_AUTHORIZATION_KEY": "file:/nowhere/key"},
        (2, "PHR_REFRESH_AUTHORIZATION_KEY"),
    ),
    "unknown user": (("login", "eve"), {}, (2, "no such user")),
    "malformed ICN": (("login", "bob"), {}, (2, "icn is malformed", "10 digits")),
    "no directory": (("login", "ada"), {"PHR_REFRESH_PATIENTS": ""}, (2, "--patients")),
    "missing directory": (("login", "ada"), {"PHR_REFRESH_PATIENTS": "nowhere.json"}, (2, "nowhere.json")),
    "empty user id": (("explain", ""), {}, (2, "user_id is malformed")),
    "unknown command": (("lgin", "ada"), {}, (2, "lgin")),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_is_wrong_is_said_in_one_sentence(cli: CommandLine, case: str) -> None:
    """Each mistake ends with its exit code and one clear line that names it, without a traceback."""
    arguments, environ, (code, *words) = SENTENCES[case]
    came, out, err = cli(*arguments, **environ)
    assert code == came
    assert [] == [word for word in words if word not in out + err]
    assert "Traceback" not in err
    assert ICN not in out + err


def test_a_missing_extra_is_named(cli: CommandLine) -> None:
    """Without the libraries of the command line, it says which extra to install."""
    program = "import sys\nsys.modules['click'] = None\nfrom phr_refresh.__main__ import main\nsys.exit(main())\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert "pip install 'phr-refresh[cli]'" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_refused_kick_off_fails_the_command(cli: CommandLine, simulator: Simulator) -> None:
    """A login whose refresh cannot be started exits with 1, and says when it can be tried again."""
    simulator.script(Fault("refresh", "http_error", status=503))
    code, out, _ = cli("login", "ada")
    assert (1, "deferred (http_503)") == (code, out.splitlines()[0])
    assert "nothing can be started before" in out


@contextmanager
def killed_at_last(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Leaves nothing behind, whatever fails."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_simulator_says_how_to_use_it(cli: CommandLine, how: signal.Signals) -> None:
    """`simulator` prints the settings for it, and answers until it is told to stop, even if its parent ignores that."""
    import requests

    command = [sys.executable, "-m", "phr_refresh", "simulator", "--port", "0"]
    before = signal.signal(how, signal.SIG_IGN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cli.environ)
    signal.signal(how, before)
    with process, killed_at_last(process):
        lines = [process.stdout.readline().strip() for _ in range(7)]
        url = lines[1].removeprefix("export PHR_REFRESH_MHV_URL=")
        assert 200 == requests.get(f"{url}/calls", timeout=5).status_code
        process.send_signal(how)
        assert 0 == process.wait(30)
    assert "export PHR_REFRESH_APP_TOKEN=simulator-app-token" in lines


def test_a_taken_port_is_said(cli: CommandLine, simulator: Simulator) -> None:
    """`simulator` on a port that is taken exits with 1 and asks for another."""
    code, _, err = cli("simulator", "--port", simulator.url.rpartition(":")[2])
    assert 1 == code
    assert "give another with --port" in err


def test_diagrams_are_written_and_checked(cli: CommandLine) -> None:
    """`diagram --write` writes what `--check` accepts; a file that was edited is named and fails."""
    assert 1 == cli("diagram", "--check", "drawn")[0]
    code, out, _ = cli("diagram", "--write", "drawn")
    assert (0, 4) == (code, len(out.splitlines()))
    assert 0 == cli("diagram", "--check", "drawn")[0]
    (cli.folder / "drawn" / "login.mmd").write_text("sequenceDiagram\n")
    code, _, err = cli("diagram", "--check", "drawn")
    assert 1 == code
    assert "login.mmd drifted" in err
    assert cli("diagram")[1].startswith("stateDiagram-v2")
    assert "| `session_opened` |" in cli("diagram", "--table")[1]
