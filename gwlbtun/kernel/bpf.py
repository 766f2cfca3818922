# SPDX-License-Identifier: MIT-0
"""The system call bpf(2): maps, programs, links. Descriptors are plain numbers, and close with the process, as ours all do."""
import ctypes
import errno
import os
import platform
import resource
import struct
import threading
from typing import Iterator, List, NamedTuple, Optional

# <linux/bpf.h>
HASH, ARRAY = 1, 2
NO_PREALLOC, MMAPABLE = 0x1, 0x400
ANY, NOEXIST, EXIST = 0, 1, 2
TCX_INGRESS, TCX_EGRESS = 46, 47
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _PROG_LOAD = 0, 1, 2, 3, 4, 5
_PROG_TEST_RUN, _OBJ_GET_INFO, _PROG_QUERY, _LINK_CREATE = 10, 15, 16, 28
_PROG_TYPE_SCHED_CLS = 3

_CREATE = struct.Struct("=IIIII8x16s")       # type, key size, value size, entries, flags, name
_ELEMENT = struct.Struct("=I4xQQQ")          # map, key, value or next key, flags
_LOAD = struct.Struct("=IIQQIIQII16s")       # type, count, instructions, license, log level, size and text, -, -, name
_RUN = struct.Struct("=IIIIQQIIIIQQII")      # program, result, sizes of data, data, repeat, duration, of context, context, -, -
_INFO = struct.Struct("=iIQ")                # object, size, info
_LINK = struct.Struct("=IIII")               # program, interface, place, flags
_QUERY = struct.Struct("=IIIIQIIQQQQ")       # interface, place, flags, -, numbers, how many, -, -, -, -, revision

_SYSCALL = {"x86_64": 321, "aarch64": 280}.get(platform.machine())
_LOG_BYTES = 1 << 20
_RUN_BYTES = 16384
_PROGRAMS_MOST = 64  # the most that Linux lets a place have
_INFO_BYTES = 128
_MAP_INFO = struct.Struct("=I4xIII4x16s")     # type, sizes of key and value, entries, name
_PROGRAM_INFO = struct.Struct("=II56x16s")    # type, number, name
_LINK_INFO = struct.Struct("=I4xI4xII")       # type, number of the program, interface, place
_LINK_TCX = 11

_libc = ctypes.CDLL(None, use_errno=True)
_memory = threading.Lock()


class Refused(OSError):
    """The kernel does not take a program; the text is the end of what its verifier says."""


class Run(NamedTuple):
    """What a program has made of a packet."""

    result: int
    packet: bytes
    context: bytes     # struct __sk_buff
    duration_ns: int   # of one repetition, on average


def _call(command: int, attributes: ctypes.Array) -> int:  # type: ignore[type-arg]
    """Raises OSError."""
    if _SYSCALL is None:
        raise OSError(errno.ENOSYS, "bpf(2) has no known number on this machine")
    done = int(_libc.syscall(ctypes.c_long(_SYSCALL), ctypes.c_int(command), attributes, ctypes.c_uint(len(attributes))))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def _make(command: int, attributes: bytes) -> int:
    """For what takes memory: Linux before 5.11 counts it against a limit for locked memory, and says EPERM."""
    try:
        return _call(command, ctypes.create_string_buffer(attributes, len(attributes)))
    except OSError as error:
        if error.errno != errno.EPERM or not _raise_limit():
            raise
        return _call(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _raise_limit() -> bool:
    """Whether more memory may be locked now than before."""
    with _memory:
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        for limit in (resource.RLIM_INFINITY, hard):
            if soft == limit:
                return False
            try:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
                return True
            except (OSError, ValueError):  # that takes CAP_SYS_RESOURCE
                continue
    return False


def _address(buffer: object) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0  # type: ignore[arg-type]


# ---- Maps ------------------------------------------------------------------------------------------------------------


def map_create(kind: int, key: int, value: int, entries: int, flags: int, name: str) -> int:
    """A map for keys and values of so many bytes. Raises OSError."""
    return _make(_MAP_CREATE, _CREATE.pack(kind, key, value, entries, flags, name.encode()[:15]))


def _element(command: int, fd: int, key: Optional[bytes], value: Optional[object], flags: int = 0) -> None:
    name = ctypes.create_string_buffer(key, len(key)) if key is not None else None
    attributes = _ELEMENT.pack(fd, _address(name), _address(value), flags)
    _call(command, ctypes.create_string_buffer(attributes, len(attributes)))


class Shape(NamedTuple):
    """What a map is like."""

    kind: int
    key: int
    value: int
    entries: int
    name: str


def map_shape(fd: int) -> Shape:
    """Raises OSError. Of another descriptor than a map's it may say anything."""
    kind, key, value, entries, name = _MAP_INFO.unpack_from(_info(fd))
    return Shape(kind, key, value, entries, name.rstrip(b"\0").decode(errors="replace"))


def map_lookup(fd: int, key: bytes, size: int) -> Optional[bytes]:
    """The value of a key, size bytes; None: there is none. Raises OSError."""
    value = ctypes.create_string_buffer(size + -size % 8)
    try:
        _element(_MAP_LOOKUP, fd, key, value)
    except FileNotFoundError:
        return None
    return value.raw[:size]


def map_update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Raises OSError: E2BIG when the map is full."""
    _element(_MAP_UPDATE, fd, key, ctypes.create_string_buffer(value, len(value)), flags)


def map_delete(fd: int, key: bytes) -> bool:
    """Whether the key was there. Raises OSError."""
    try:
        _element(_MAP_DELETE, fd, key, None)
    except FileNotFoundError:
        return False
    return True


def map_keys(fd: int, size: int) -> Iterator[bytes]:
    """All keys, each of size bytes. Those that come or go meanwhile may be missing or come twice. Raises OSError."""
    key = None
    following = ctypes.create_string_buffer(size)
    while True:
        try:
            _element(_MAP_NEXT_KEY, fd, key, following)
        except FileNotFoundError:
            return
        key = following.raw
        yield key


# ---- Programs --------------------------------------------------------------------------------------------------------


def program_load(instructions: bytes, name: str) -> int:
    """A program for packets (BPF_PROG_TYPE_SCHED_CLS). Raises Refused, or OSError."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(b"GPL")

    def attributes(log: Optional[object]) -> bytes:
        return _LOAD.pack(_PROG_TYPE_SCHED_CLS, len(instructions) // 8, _address(code), _address(license_),
                          1 if log else 0, _LOG_BYTES if log else 0, _address(log), 0, 0, name.encode()[:15])

    try:
        return _make(_PROG_LOAD, attributes(None))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _make(_PROG_LOAD, attributes(log))
        except OSError as again:
            lines = log.value.decode(errors="replace").splitlines()
            raise Refused(again.errno, "\n".join([again.strerror or "", *lines[-12:]])) from None


def program_run(fd: int, packet: bytes, context: bytes = b"", repeat: int = 1) -> Run:
    """Runs a program on a packet that nobody sees (BPF_PROG_TEST_RUN). Raises OSError."""
    data = ctypes.create_string_buffer(packet, len(packet))
    out = ctypes.create_string_buffer(_RUN_BYTES)
    given = ctypes.create_string_buffer(context, len(context)) if context else None
    left = ctypes.create_string_buffer(len(context)) if context else None
    attributes = ctypes.create_string_buffer(
        _RUN.pack(fd, 0, len(packet), len(out), _address(data), _address(out), repeat, 0, len(context), len(context),
                  _address(given), _address(left), 0, 0), _RUN.size)
    _call(_PROG_TEST_RUN, attributes)
    _, result, _, size, _, _, _, duration, *_ = _RUN.unpack(attributes.raw)
    return Run(result, out.raw[:size], left.raw if left is not None else b"", duration)


def program_id(fd: int) -> int:
    """The kernel's number of a program. Raises OSError."""
    number: int = _PROGRAM_INFO.unpack_from(_info(fd))[1]
    return number


def program_name(fd: int) -> str:
    """Raises OSError. Of another descriptor than a program's it may say anything."""
    name: bytes = _PROGRAM_INFO.unpack_from(_info(fd))[2]
    return name.rstrip(b"\0").decode(errors="replace")


def _info(fd: int) -> bytes:
    """What the kernel tells of a map, a program or a link. Raises OSError: EINVAL when it is none."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    attributes = _INFO.pack(fd, len(info), ctypes.addressof(info))
    _call(_OBJ_GET_INFO, ctypes.create_string_buffer(attributes, len(attributes)))
    return info.raw


# ---- Links -----------------------------------------------------------------------------------------------------------


def link_create(program: int, interface: int, place: int) -> int:
    """Attaches a program behind those that are there: for as long as the descriptor is open. Raises OSError; EINVAL: the
    kernel does not know such links."""
    return _make(_LINK_CREATE, _LINK.pack(program, interface, place, 0) + bytes(16))


class Attached(NamedTuple):
    """What a link of TCX attaches, and where."""

    program: int    # the kernel's number
    interface: int  # 0: it is gone
    place: int


def link_of(fd: int) -> Attached:
    """Raises OSError: EINVAL when it is no such link."""
    kind, program, interface, place = _LINK_INFO.unpack_from(_info(fd))
    if kind != _LINK_TCX:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return Attached(program, interface, place)


def programs_at(interface: int, place: int) -> List[int]:
    """The kernel's numbers of the programs that are attached there. Raises OSError: EINVAL where there is no such place."""
    found = (ctypes.c_uint32 * _PROGRAMS_MOST)()
    attributes = ctypes.create_string_buffer(
        _QUERY.pack(interface, place, 0, 0, ctypes.addressof(found), _PROGRAMS_MOST, 0, 0, 0, 0, 0), _QUERY.size)
    _call(_PROG_QUERY, attributes)
    return list(found[:_QUERY.unpack(attributes.raw)[5]])
