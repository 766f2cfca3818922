# SPDX-License-Identifier: MIT-0
"""`python3 DIRECTORY` with this directory, and `python3 -m gwlbtun`: the same as gwlbtun.py, for any Python to read."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path[0] = ROOT  # in place of this directory, in which some modules bear names of the library's

import runpy  # noqa: E402

runpy.run_path(os.path.join(ROOT, "gwlbtun.py"), run_name="__main__")
