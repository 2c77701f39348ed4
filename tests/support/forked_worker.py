"""A worker of pytest-xdist that is forked from the process that has imported what workers import."""

from __future__ import annotations

import atexit
import gc
import sys

if __name__ == "__main__":
    # As in `conftest.py`, which enables it again.
    gc.disable()
    try:
        # What execnet lets `python -c` do.
        exec(eval(sys.stdin.readline()))  # noqa: S102, S307
    finally:
        # Whoever forked this process ends it without that.
        atexit._run_exitfuncs()
