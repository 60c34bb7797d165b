"""The Prefer header: how long a client is ready to wait (RFC 7240, section 4.3)."""

import re
from typing import Final

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
# Elements of the list are separated by commas, but not by those inside quoted strings.
_ELEMENT: Final = re.compile(rf'(?:[^",]|{_QUOTED})+', re.DOTALL)
# Parameters come after semicolons; `wait` has none that mean anything.
_PREFERENCE: Final = re.compile(rf"\s*({_WORD})\s*(?:=\s*({_WORD}|{_QUOTED})\s*)?(?:;.*)?", re.DOTALL)
_SECONDS: Final = re.compile(r"[0-9]+")
#: More than anybody waits; what is longer counts as this.
_MOST_DIGITS: Final = 9
#: Nobody prefers so much: what is longer is not read to its end.
_MOST_CHARACTERS: Final = 1000


def wait_of(header: str | None) -> int | None:
    """The seconds of `wait=N`; None where there is no such preference, or none that can be read.

    The first one counts (RFC 7240, section 2). What cannot be read is ignored, as preferences may be.

    >>> wait_of("respond-async, wait=10"), wait_of('Wait = "3"; foo=bar'), wait_of("wait=soon"), wait_of(None)
    (10, 3, None, None)
    """
    for element in _ELEMENT.findall((header or "")[:_MOST_CHARACTERS]):
        preference = _PREFERENCE.fullmatch(element)
        if preference is not None and preference[1].lower() == "wait":
            seconds = (preference[2] or "").strip('"')
            if not _SECONDS.fullmatch(seconds):
                return None
            return int(seconds) if len(seconds) <= _MOST_DIGITS else 10**_MOST_DIGITS
    return None
