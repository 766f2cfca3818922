# SPDX-License-Identifier: MIT-0
"""Where all tests find the package, and the helpers that they share."""
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent

sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]
