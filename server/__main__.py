"""The program: the script `signalbox`, and `python -m server`."""

from __future__ import annotations

import sys
from typing import Final

_INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, that of `server.cli.errors`, which may not be imported yet."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        # Here, because Ctrl-C may come while it is imported.
        from server.cli.main import run

        code = run()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
