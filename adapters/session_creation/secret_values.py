"""Where a secret setting comes from: the value itself, a file, or the AWS Systems Manager Parameter Store.

plain text          the value itself
file:/run/key       the content of the file, without the newline at its end
ssm:/team/mhv/key   the decrypted parameter of that name; region and credentials as boto3 finds them
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import get_ident
from typing import Protocol, cast

from ...statemachine.errors import ConfigurationError, MissingExtra

# They log what they send and receive: at DEBUG, botocore logs the answer with the decrypted value in it.
_TALKATIVE = ("boto3", "botocore", "urllib3", "responses")


class _ParameterStore(Protocol):
    def get_parameter(self, *, Name: str, WithDecryption: bool) -> dict[str, dict[str, str]]: ...


def read_secret(setting: str, given: str) -> str:
    """The secret that `given` stands for. `setting` names it in errors, which never show a value.

    Raises `ConfigurationError` if it cannot be read, `MissingExtra` if `ssm:` is given without boto3 installed.
    """
    if given.startswith("file:"):
        return _from_file(setting, given.removeprefix("file:"))
    if given.startswith("ssm:"):
        return _from_parameter_store(setting, given.removeprefix("ssm:"))
    return given


def _from_file(setting: str, path: str) -> str:
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            setting, f"its file cannot be read ({type(error).__name__})", "check the path and who may read it"
        ) from error
    # Not strict: a UnicodeDecodeError would carry the secret. What does not decode fails the settings' own check.
    return content.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def _from_parameter_store(setting: str, name: str) -> str:
    try:
        boto3 = import_module("boto3")
        errors = import_module("botocore.exceptions")
    except ImportError as error:
        raise MissingExtra("reading a secret from the AWS Parameter Store", "aws") from error
    try:
        client = cast(_ParameterStore, boto3.client("ssm"))
        with _silence_of_this_thread():
            return client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except errors.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        problem, remedy = (
            f"the AWS Parameter Store refused it ({code})",
            "check the parameter's name and the IAM rights",
        )
        raise ConfigurationError(setting, problem, remedy) from error
    except errors.BotoCoreError as error:
        problem = f"the AWS Parameter Store cannot be asked ({type(error).__name__})"
        raise ConfigurationError(setting, problem, "check the AWS region, the credentials and the network") from error


class _DropThisThread(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._thread = get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        # Not `record.thread`: that is None where the program has turned logging.logThreads off.
        return get_ident() != self._thread


@contextmanager
def _silence_of_this_thread() -> Iterator[None]:
    """Drop what the talkative loggers record in this thread. Other threads, levels and handlers are left alone."""
    # Called when the client exists: by then botocore has imported its modules, and each has made its logger.
    known = list(logging.getLogger().manager.loggerDict)
    loggers = [logging.getLogger(name) for name in {*known, *_TALKATIVE} if name.partition(".")[0] in _TALKATIVE]
    dropping = _DropThisThread()
    for logger in loggers:
        logger.addFilter(dropping)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(dropping)
