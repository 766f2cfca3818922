# SPDX-License-Identifier: MIT-0
"""What the process shows for its command line."""
import pytest

from gwlbtun import title


@pytest.mark.parametrize("shown, own, wanted", [
    ("python3 /usr/local/bin/gwlbtun -p 80", 3, "/usr/local/bin/gwlbtun -p 80"),
    ("/usr/bin/python3.9 -I -u ./gwlbtun", 1, "./gwlbtun"),
    ("python3 /opt/gwlbtun/gwlbtun.py -j", 2, "gwlbtun /opt/gwlbtun/gwlbtun.py -j"),
    ("python3 -m gwlbtun", 1, "gwlbtun"),
    ("python3 /opt/gwlbtun/gwlbtun", 1, "/opt/gwlbtun/gwlbtun"),
])
def test_a_script_shows_what_a_program_of_that_name_would(shown, own, wanted):
    def as_kernel(text):
        return "".join(word + "\0" for word in text.split(" ")).encode()

    assert title.words_for(as_kernel(shown), own) == as_kernel(wanted)


def test_empty_arguments_stay():
    assert title.words_for(b"python3\0/x/gwlbtun\0-p\0\0-j\0", 4) == b"/x/gwlbtun\0-p\0\0-j\0"


def test_where_the_command_line_cannot_be_had_nothing_happens(monkeypatch):
    monkeypatch.setattr(title, "open", lambda *_: (_ for _ in ()).throw(PermissionError), raising=False)
    title.take()
