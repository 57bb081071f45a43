"""Fixtures of several files."""

import pytest

from videozoo.cli import main


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
