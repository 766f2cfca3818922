# SPDX-License-Identifier: MIT-0
"""The command line that ps shows, and by whose first word pidof finds the process.

Of a script, the kernel shows the interpreter first. gwlbtun has taken the place of a native program of its name, so it shows
what that would: its own name first. The words lie in the process's own memory, where the kernel reads them.
"""
import os
import sys

from . import installation

NAME = b"gwlbtun"
ARG_START, ARG_END = 47, 48  # fields of /proc/self/stat, from 0: where the words begin and end


def take() -> None:
    """Leaves everything as it is where the kernel does not show the words, or does not let them be written."""
    try:
        _rewrite()
    except (OSError, ValueError, IndexError):
        pass


def _rewrite() -> None:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # from the third on: the second is a name with any character
    start, end = int(fields[ARG_START - 2]), int(fields[ARG_END - 2])
    with open("/proc/self/cmdline", "rb") as file:
        shown = file.read()
    title = words_for(shown, len(sys.argv), os.fsencode(installation.PATH))
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        if not start or os.pread(memory.fileno(), end - start, start) != shown or len(title) > len(shown):
            return
        os.pwrite(memory.fileno(), title.ljust(len(shown), b"\0"), start)


def words_for(shown: bytes, own: int, path: bytes = NAME) -> bytes:
    """The words, each with its NUL, that are to be shown in place of these, of which so many are the program's own. path: what
    a memory file is a copy of."""
    words = shown.split(b"\0")[:-1][-own:]
    if words[0].startswith(b"/proc/self/fd/"):
        words[0] = path if len(b"\0".join(words)) - len(words[0]) + len(path) < len(shown) else NAME
    if os.path.basename(words[0]) != NAME:
        words.insert(0, NAME)
    return b"".join(word + b"\0" for word in words)
