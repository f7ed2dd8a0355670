"""`python -m han` is the command `han`."""

from __future__ import annotations

import sys

from han.cli import main

if __name__ == "__main__":
    sys.exit(main())
