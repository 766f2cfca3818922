# SPDX-License-Identifier: MIT-0
"""The documents, and what is in their tables."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
HEALTH = (ROOT / "docs" / "HEALTH.md").read_text()


def rows(text):
    """The cells of each row of all its tables, without the heads."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines
            if not re.match(r" (?:key|option|for|ask|metric|label|---) ", line)]


def coded(text):
    return re.findall(r"`([^`]+)`", text)

