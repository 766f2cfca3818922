# SPDX-License-Identifier: MIT-0
"""Files of options: @FILE on the command line stands for the words of FILE, which are split as a shell would.

A word is separated by spaces or line ends; quotes and backslashes keep them in it; # at the beginning of a word begins a
comment. A file may name others by @FILE; a path that is relative is so to the file that names it. So an option's value that
begins with @ has to be given in one word with the option: --cmdnew=@hook.
"""
import contextlib
import os
import re
import shlex
import stat
from typing import List, Sequence, Tuple

FILE_BYTES = 65_536
WORDS = 10_000  # of all files, so that files which name others many times remain bounded
DEPTH = 16

# Continued lines and comments are skipped like spaces.
_SPACE = re.compile(r"(?:\s|\\\n|#[^\n]*)*")
_END = re.compile(r"\s|\\\n|\Z")
_WORD = re.compile(r"""(?:[^\s'"\\]|\\[^\n]|'[^']*'|"(?:[^"\\]|\\.)*")+""", re.DOTALL)
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


class Word(str):
    """A word that knows where it stands."""

    where = ""


def place(text: str, file: str, line: int) -> Word:
    word = Word(text)
    word.where = f"{file}, line {line}: "
    return word


def expand(arguments: Sequence[str]) -> List[str]:
    """Returns the arguments with each @FILE replaced by its words. Raises ValueError with a text for the user."""
    return _expand(arguments, (), "", [])


def files(arguments: Sequence[str]) -> List[str]:
    """The paths of all files that expand() reads, or tries to."""
    found: List[str] = []
    with contextlib.suppress(ValueError):
        _expand(arguments, (), "", found)
    return found


def _expand(arguments: Sequence[str], parents: Tuple[str, ...], directory: str, found: List[str]) -> List[str]:
    words: List[str] = []
    for argument in arguments:
        if not argument.startswith("@"):
            words.append(argument)
            continue
        where = getattr(argument, "where", "")
        if argument == "@":
            raise ValueError(f"{where}@ names no file: give @FILE to read options from FILE")
        path = os.path.join(directory, argument[1:])
        real = os.path.realpath(path)
        if real in parents:
            raise ValueError(f"{where}the options file {path} includes itself")
        if len(parents) >= DEPTH:
            raise ValueError(f"{where}{DEPTH} options files include one another, and {path} would be one more")
        found.append(path)
        words += _expand(_split(_read(path, where), path), (*parents, real), os.path.dirname(path), found)
        if len(words) > WORDS:
            raise ValueError(f"{where}{path} and what it includes hold more than {WORDS} words")
    return words


def _read(path: str, where: str) -> str:
    refusal = f"{where}cannot read the options file {path}: "
    try:
        # A pipe must not hold up the start.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{refusal}it is no regular file")
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{refusal}{error.strerror}") from None
    if len(data) > FILE_BYTES:
        raise ValueError(f"{refusal}it is larger than {FILE_BYTES} bytes")
    text = os.fsdecode(data).replace("\r\n", "\n").lstrip("\ufeff")
    if _NO_TEXT.search(text):
        raise ValueError(f"{refusal}it is no text")
    return text


def _split(text: str, path: str) -> List[str]:
    words: List[str] = []
    at = 0
    while True:
        at += len(_SPACE.match(text, at)[0])  # type: ignore[index]  # it matches nothing, too
        if at == len(text):
            return words
        line = text.count("\n", 0, at) + 1
        word = _WORD.match(text, at)
        if not word or not _END.match(text, word.end()):
            raise ValueError(f"{path}, line {line}: the word that begins here has a quote that is not closed")
        words.append(place(shlex.split(word[0])[0], path, line))
        at = word.end()
