"""What a check finds: one line, and one remedy where there is something to do."""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

Findings = Generator["Finding", None, None]


MARK_WIDTH: Final = 7
CHECK_WIDTH: Final = 17


class Level(StrEnum):
    """How bad it is. Unknown: it could not be looked at, which is no fault."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was looked at, `said` is what was found, `remedy` what to do, empty where all is fine.

    None of them holds a secret or an identifier.
    """

    check: str
    level: Level
    said: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        """The level for people: what has to be seen to stands out."""
        return self.level.upper() if self.level in (Level.WARNING, Level.ERROR) else self.level.value

    @property
    def line(self) -> str:
        """All of it as one line of text, the remedy after an arrow."""
        line = f"{self.mark:<{MARK_WIDTH}} {self.check:<{CHECK_WIDTH}} {self.said}"
        return f"{line} -> {self.remedy}" if self.remedy else line


def ok(check: str, said: str) -> Finding:
    """All is fine."""
    return Finding(check, Level.OK, said)


def unknown(check: str, said: str, remedy: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Level.UNKNOWN, said, remedy)


def warning(check: str, said: str, remedy: str) -> Finding:
    """It works, and somebody should know."""
    return Finding(check, Level.WARNING, said, remedy)


def error(check: str, said: str, remedy: str) -> Finding:
    """It does not work, or it breaks a promise of the library."""
    return Finding(check, Level.ERROR, said, remedy)


def milliseconds_of(seconds: float) -> str:
    """A short time for people.

    >>> milliseconds_of(0.00021), milliseconds_of(0.0123), milliseconds_of(1.5)
    ('0.2 ms', '12 ms', '1500 ms')
    """
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def counts_of(found: Sequence[Finding]) -> dict[str, int]:
    """How many findings there are of each level."""
    counts = Counter(finding.level for finding in found)
    return {level.value: counts[level] for level in Level}


def as_plain(found: Sequence[Finding]) -> dict[str, Any]:
    """All of it as what `json.dumps` takes."""
    return {"findings": [asdict(finding) for finding in found], "counts": counts_of(found)}


def faults_of(found: Sequence[Finding], *, strict: bool) -> list[Finding]:
    """What has to be seen to: errors, and where `strict`, warnings."""
    bad = (Level.ERROR, Level.WARNING) if strict else (Level.ERROR,)
    return [finding for finding in found if finding.level in bad]
