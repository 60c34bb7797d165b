"""The Prefer header: how long a client is ready to wait (RFC 7240, section 4.3)."""

import re
from typing import Final

# A preference, its value a token or a quoted string, parameters after semicolons that nobody asks for.
_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', re.IGNORECASE | re.DOTALL)


def wait_of(header: str | None) -> int | None:
    """The seconds of `wait=N`; None where there is no such preference, or none that can be read.

    The first one counts (RFC 7240, section 2). What cannot be read is ignored, as preferences may be.

    >>> wait_of("respond-async, wait=10"), wait_of('Wait = "3"; foo=bar'), wait_of("wait=soon"), wait_of(None)
    (10, 3, None, None)
    """
    for preference in (header or "").split(","):
        if preference.partition("=")[0].strip().lower() == "wait":
            found = _WAIT.fullmatch(preference)
            return int(found[1]) if found else None
    return None
