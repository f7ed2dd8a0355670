"""The tests of han."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a processor of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")
