# SPDX-License-Identifier: MIT-0
"""Where all tests find the package, and the helpers that they share."""
import os
import signal
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]
pytest.register_assert_rewrite("fixtures", "expectations", "lab")  # what fails in them says what it saw, too
pytest_plugins = ["leftovers", "processes"]

# Each daemon that a test starts would compile the program anew where Python may not keep what it has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(TESTS.parent / "build" / "pycache")

# Started in the background or by nohup, the tests ignore these, and what they start would inherit that.
for number in signal.SIGINT, signal.SIGQUIT, signal.SIGHUP:
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture
def book(tmp_path):
    """A log of which a test reads what was said."""
    from logbook import Logbook  # found by the path above

    logbook = Logbook(tmp_path)
    yield logbook
    logbook.close()
