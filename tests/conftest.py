# SPDX-License-Identifier: MIT-0
"""Where all tests find the package, and the helpers that they share."""
import signal
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]
pytest.register_assert_rewrite("fixtures", "expectations", "lab")  # what fails in them says what it saw, too
pytest_plugins = ["leftovers", "processes"]

# A shell that starts the tests in the background has them ignore it, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def book(tmp_path):
    """A log of which a test reads what was said."""
    from logbook import Logbook  # found by the path above

    logbook = Logbook(tmp_path)
    yield logbook
    logbook.close()
