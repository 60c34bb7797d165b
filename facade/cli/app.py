"""The commands of `phr-refresh`. Needs the extra `cli`."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.redis_acl import acl_rule
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.errors import CallerError, MissingExtra, PhrRefreshError
from phr_refresh.statemachine.outcomes import ReceiptKind, Status
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.record import State
from rich.console import Console

from ..assembly import Settings
from ..directory import Directory
from ..drawing import diagrams
from ..synchronous import PhrRefresh
from ..testing.history import Verdict, check, read_history
from .demo import Demo
from .demo_view import report, watcher
from .doctor import doctor
from .parts import json_option, on_store_alone, show, store_option, until_told_to_stop
from .sweep import sweep
from .views import advice, explanation_lines, receipt_lines, status_lines

_patients_option = click.option(
    "--patients",
    "patients",
    envvar="PHR_REFRESH_PATIENTS",
    type=click.Path(path_type=Path),
    help="JSON file: user id -> icn and mhv_correlation_id.",
)


def run() -> int:
    """Run the command line with the process's arguments; the exit code."""
    try:
        result = cli.main(prog_name="phr-refresh", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        click.echo("Interrupted.", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PhrRefreshError as error:
        click.echo(f"Error: {error}", err=True)
        return 2 if isinstance(error, CallerError) and not isinstance(error, MissingExtra) else 1
    except BrokenPipeError:
        # Whoever read our output has had enough; what is left in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        click.echo(f"Error: {error.filename or 'the output'}: {error.strerror}; check the path.", err=True)
        return 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="phr-refresh")
@click.option("--verbose", "-v", is_flag=True, help="Log events to standard error.")
def cli(verbose: bool) -> None:
    """Refresh patients' health records at login, once per window.

    The upstream is set by PHR_REFRESH_MHV_URL, PHR_REFRESH_APP_TOKEN and PHR_REFRESH_AUTHORIZATION_KEY.
    Exit codes: 0 done, 1 it failed, 2 usage.

    Example: phr-refresh demo
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("phr_refresh").setLevel(logging.INFO if verbose else logging.CRITICAL)


cli.add_command(sweep)
cli.add_command(doctor)


def _connected(store: str) -> PhrRefresh:
    from ..mhv import MhvSettings, MhvUpstream

    settings = Settings.from_env()
    return PhrRefresh(
        store=open_store(store),
        upstream=MhvUpstream(MhvSettings.from_env()),
        worker=InlineWorker(),
        seal=settings.seal,
        observer=settings.observer,
    )


@cli.command()
@click.argument("user")
@store_option
@_patients_option
@click.option("--follow", is_flag=True, help="Stay until the refresh has ended.")
@json_option()
def login(user: str, store: str, patients: Path | None, follow: bool, as_json_: bool) -> int:
    """Do for USER what a login does, at once: open a session and start the refresh, unless that was done.

    Example: phr-refresh login ada --patients patients.json --follow
    """
    patient = _directory(patients).patient(user)
    with _connected(store) as phr:
        receipt = phr.refresh(patient)
        if receipt.kind is ReceiptKind.DEFERRED:
            show(receipt, receipt_lines, json_wanted=as_json_)
            click.echo(f"Error: nothing was started: {advice(receipt)}.", err=True)
            return 1
        if not follow:
            show(receipt, receipt_lines, json_wanted=as_json_)
            return 0
        if not as_json_:
            click.echo("\n".join(receipt_lines(receipt)))
        ended = _followed(phr, patient)
        show(ended, status_lines, json_wanted=as_json_)
        return 0 if ended.state is State.COMPLETE or not ended.eligible else 1


def _directory(path: Path | None) -> Directory:
    if path is None:
        raise click.UsageError("give --patients FILE (or PHR_REFRESH_PATIENTS): the user's ICN is read from there.")
    return Directory(path)


def _followed(phr: PhrRefresh, patient: Patient) -> Status:
    """The status once there is nothing more to wait for, whoever started the refresh."""
    while (status := phr.status(patient)).state is State.REFRESHING and status.next_check_at is not None:
        wait = (status.next_check_at - datetime.now(UTC)).total_seconds()
        time.sleep(min(max(wait, 0.05), 5.0))
    return status


@cli.command()
@click.argument("user")
@store_option
@_patients_option
@json_option()
def status(user: str, store: str, patients: Path | None, as_json_: bool) -> None:
    """Tell where USER's refresh stands. With --patients the upstream is asked if that is due, without it never.

    Example: phr-refresh status ada --json
    """
    if patients is None:
        with on_store_alone(store) as phr:
            show(phr.status(user), status_lines, json_wanted=as_json_)
        return
    patient = Directory(patients).patient(user)
    with _connected(store) as phr:
        show(phr.status(patient), status_lines, json_wanted=as_json_)


@cli.command()
@click.argument("user")
@store_option
@json_option()
def explain(user: str, store: str, as_json_: bool) -> None:
    """Explain USER's state: why, what was refused last, what is possible now, what happens next.

    Example: phr-refresh explain ada --store redis://localhost:6379/0
    """
    with on_store_alone(store) as phr:
        show(phr.explain(user), explanation_lines, json_wanted=as_json_)


@cli.command()
@click.option("--write", "write_to", type=click.Path(path_type=Path, file_okay=False), help="Write all documents here.")
@click.option(
    "--check", "check_in", type=click.Path(path_type=Path, file_okay=False), help="Fail if they have drifted."
)
@click.option("--table", is_flag=True, help="Print the transition table (Markdown) in place of the diagram.")
def diagram(write_to: Path | None, check_in: Path | None, table: bool) -> int:
    """Print the state diagram as Mermaid, or write or check the generated documents.

    Example: phr-refresh diagram --write diagrams/
    """
    if write_to is not None:
        for path in diagrams.write(write_to):
            click.echo(path)
    elif check_in is not None:
        drifted = diagrams.drifted(check_in)
        if drifted:
            click.echo(f"Error: {', '.join(drifted)} drifted; run: phr-refresh diagram --write {check_in}", err=True)
            return 1
        click.echo(f"{len(diagrams.documents())} documents are up to date")
    else:
        click.echo(diagrams.documents()["lifecycle.md" if table else "lifecycle.mmd"], nl=False)
    return 0


@cli.command()
@click.option("--port", default=8900, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--dialect",
    default="extracts",
    show_default=True,
    type=click.Choice(["extracts", "http-code"]),
    help="How its status answers.",
)
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.1, 1000), help="Times as fast.")
def simulator(port: int, dialect: Any, speed: float) -> int:
    """Run an HTTP server that behaves as the upstream does, until told to stop.

    Example: phr-refresh simulator --port 8900
    """
    from ..simulator import Simulator

    server = Simulator(port, dialect=dialect, speed=speed)
    # Before a word is printed: whoever reads it may tell this process to stop at once.
    with until_told_to_stop() as stop:
        try:
            server.start()
        except OSError as error:
            click.echo(f"Error: port {port} cannot be taken ({error.strerror}); give another with --port.", err=True)
            return 1
        click.echo(_how_to_use(server, dialect))
        stop.wait()
    server.stop()
    return 0


def _how_to_use(server: Any, dialect: Any) -> str:
    names = ("MHV_URL", "FHIR_URL", "APP_TOKEN", "AUTHORIZATION_KEY", "DIALECT")
    values = (*server.settings.values(), dialect)
    exports = "".join(f"  export PHR_REFRESH_{name}={value}\n" for name, value in zip(names, values, strict=True))
    return f"The simulator listens. To use it:\n{exports}Calls are counted at {server.url}/calls. Stop with Ctrl-C."


@cli.command()
@click.option("--patients", default=5, show_default=True, type=click.IntRange(1, 200), help="How many log in at once.")
@click.option("--tabs", default=3, show_default=True, type=click.IntRange(1, 20), help="Browser tabs that poll, each.")
@click.option("--store", default=None, help="Store URL.  [default: a new SQLite file]")
@json_option()
def demo(patients: int, tabs: int, store: str | None, as_json_: bool) -> int:
    """Run the whole thing on this machine: logins, refreshes, polls, vital signs, over real HTTP.

    Example: phr-refresh demo --patients 10
    """
    console = Console()
    with watcher(console, quiet=as_json_) as watch:
        result = Demo(watch, patients=patients, tabs=tabs, store_url=store).run()
    if as_json_:
        click.echo(json.dumps(result.as_json()))
    else:
        report(console, result)
    return 1 if result.broken else 0


@cli.command("acl-rule")
def acl() -> None:
    """Print the ACL rule of a Redis user who may do the least, for the password whose hash it holds: a line of stdin.

    Example: phr-refresh acl-rule < password-file >> users.acl
    """
    click.echo(acl_rule(password=sys.stdin.readline().rstrip("\r\n")))


@cli.command("check-history")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--tolerance", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Seconds that clocks may differ."
)
@json_option()
def check_history(file: Path, tolerance: float, as_json_: bool) -> int:
    """Check that one order explains every load and write in FILE, as RecordedStore wrote it.

    Exit code 1 if none does, or if the order breaks a rule.

    Example: phr-refresh check-history history.jsonl --tolerance 0.05
    """
    verdict = check(read_history(file), tolerance=tolerance)
    show(verdict, _verdict_lines, json_wanted=as_json_)
    return 1 if verdict.flaws else 0


def _verdict_lines(verdict: Verdict) -> list[str]:
    said = f"{verdict.patients} patients, {verdict.calls} calls, {verdict.writes} writes"
    unknown = f" and {verdict.unknown} with an unknown outcome" if verdict.unknown else ""
    flaws = {0: "no flaw", 1: "one flaw"}.get(len(verdict.flaws), f"{len(verdict.flaws)} flaws")
    shown = [
        f"  patient {flaw.patient}, {flaw.rule}: {flaw.what} (lines {' and '.join(map(str, flaw.lines))})"
        for flaw in verdict.flaws
    ]
    return [f"{said}{unknown}: {flaws}.", *shown]
