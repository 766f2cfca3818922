# SPDX-License-Identifier: MIT-0
"""tools/record.py: what a terminal shows becomes an SVG that says the same."""
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def record(target, script):
    return subprocess.run([sys.executable, ROOT / "tools" / "record.py", target, "$ command <file", "sh", "-c", script],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def test_lines_colours_and_signs_are_kept(tmp_path):
    target = tmp_path / "recorded.svg"
    done = record(target, r"""printf '  a <b> & "c"\n\n\033[32m✓\033[0m \033[1mbold\033[0m plain\n'
                              test -t 1 && echo ──┐ >&2""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    root = ElementTree.parse(target).getroot()
    texts = root.findall(f"{SVG}text")
    assert ["".join(text.itertext()) for text in texts] == \
        ["$ command <file", '  a <b> & "c"', "✓ bold plain", "──┐"]
    assert [(span.get("class"), span.text) for span in root.iter(f"{SVG}tspan")] == [("good", "✓"), ("bold", "bold")]
    heights = [float(text.get("y")) for text in texts]
    assert heights == sorted(set(heights)) and heights[-1] < float(root.get("viewBox").split()[-1])
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text
    assert "http" not in target.read_text().replace("http://www.w3.org/2000/svg", "")  # it fetches nothing


def test_the_longest_line_fits(tmp_path):
    target = tmp_path / "recorded.svg"
    record(target, "printf '%0200d\n' 1")
    root = ElementTree.parse(target).getroot()
    longest = root.findall(f"{SVG}text")[-1]
    assert float(longest.get("x")) + float(longest.get("textLength")) <= float(root.get("viewBox").split()[2])


def test_a_command_that_fails_is_not_recorded(tmp_path):
    target = tmp_path / "recorded.svg"
    target.write_text("as before")
    done = record(target, "echo no such thing; exit 3")
    assert done.returncode == 1
    assert "no such thing" in done.stderr and "status 3" in done.stderr
    assert target.read_text() == "as before"
