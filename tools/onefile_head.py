#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""gwlbtun in one file. The program is a zip archive, in base64, in the comment lines at the end. To look into it:

    sed '1,/^# ---- The archive$/d; s/^#//' gwlbtun | base64 -d >gwlbtun.zip

Everything is read at the start, so the file may be replaced while gwlbtun runs. Kept to syntax that any Python can read, so
that one too old can be told so.
"""
import sys

if sys.version_info < (3, 9):
    sys.exit("gwlbtun: needs Python 3.9 or newer, this is %d.%d: run it with a newer python3" % sys.version_info[:2])

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # the directory of this file, in which anything may lie: /tmp, say

import os  # noqa: E402
import signal  # noqa: E402

if os.getpid() == 1:  # as in a container: Linux throws a signal away for which there is no handler yet, unless it is blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

import binascii  # noqa: E402
import errno  # noqa: E402
import importlib.abc  # noqa: E402
import importlib.util  # noqa: E402
import io  # noqa: E402
import zipfile  # noqa: E402
import zlib  # noqa: E402

MARK = b"# ---- The archive\n"


class Archive(importlib.abc.SourceLoader):
    """Finds and loads the package's modules, and reads the files beside them, all from memory."""

    def __init__(self, path, files):  # type: (str, dict[str, bytes]) -> None
        self.archive = path
        self.files = files

    def find_spec(self, name, path=None, target=None):  # type: ignore
        try:
            return importlib.util.spec_from_file_location(name, self.get_filename(name), loader=self)
        except ImportError:
            return None

    def get_filename(self, fullname):  # type: (str) -> str
        for end in "/__init__.py", ".py":
            name = fullname.replace(".", "/") + end
            if name in self.files:
                return self.archive + "/" + name
        raise ImportError("there is no module " + fullname, name=fullname)

    def get_data(self, path):  # type: ignore
        name = str(path)[len(self.archive) + 1:]
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "not in the archive", str(path))
        return self.files[name]


def read(path):  # type: (str) -> dict[str, bytes]
    """The files in the archive that the file at path ends with."""
    try:
        with open(path, "rb") as file:
            before, _, text = file.read().rpartition(MARK)
        data = binascii.a2b_base64(text)
        if before[-9:-1] != b"%08x" % zlib.crc32(data):  # zip's own sums leave out its headers
            raise zipfile.BadZipFile("its sum is wrong")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, binascii.Error, zipfile.BadZipFile, zlib.error, EOFError) as error:
        sys.exit("gwlbtun: %s is damaged (%s): copy it once more" % (path, error))


PATH = os.path.abspath(os.environ.pop("GWLBTUN_FILE", "") or __file__)  # a copy of it may run (gwlbtun/installation.py)
sys.argv[0] = PATH
sys.meta_path.insert(0, Archive(PATH, read(__file__)))

from gwlbtun.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
