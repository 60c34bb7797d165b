"""The command line's entry: `phr-refresh`, or `python -m phr_refresh`."""

import sys

from phr_refresh.statemachine.errors import MissingExtra


def main() -> int:
    """Run the command line. Exit codes: 0 done, 1 it failed, 2 usage."""
    try:
        from .cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(f"Error: {MissingExtra('the command line', 'cli')}", file=sys.stderr)  # noqa: T201
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
