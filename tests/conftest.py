"""Fixtures of several files, and the threads of tests that run in several processes."""

import os

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the processes share the cores; torch reads this when it is imported
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import pytest  # noqa: E402

from videozoo.cli import main  # noqa: E402


@pytest.fixture
def run(capsys):
    """Runs the command line in this process: exit code, stdout and stderr."""

    def run(*argv):
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return run
