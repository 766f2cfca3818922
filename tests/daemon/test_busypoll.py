# SPDX-License-Identifier: MIT-0
"""--busypoll, as the kernel takes it and refuses it."""
import errno
import socket

import pytest

import netns
from gwlbtun import receiver
from gwlbtun.settings import Settings
from logbook import Logbook

SO_BUSY_POLL, SO_PREFER_BUSY_POLL = 46, 69


@pytest.fixture
def book(tmp_path):
    logbook = Logbook(tmp_path)
    yield logbook
    logbook.close()


def options(book, **settings):
    with netns.Namespace("poll") as namespace, namespace.entered():
        sockets = receiver.open_sockets(Settings(udp_threads=2, rcvbuf_mb=1, **settings), book.log)
    try:
        return [[one.getsockopt(socket.SOL_SOCKET, option)
                 for option in (SO_BUSY_POLL, SO_PREFER_BUSY_POLL)] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_receivers_poll_for_as_long_as_asked(book):
    assert options(book, busypoll_us=50) == [[50, 1]] * 2


def test_by_default_they_do_not(book):
    assert options(book) == [[0, 0]] * 2


class Refusing:
    """A socket whose kernel refuses some options."""

    def __init__(self, number, *refused):
        self.number, self.refused = number, refused

    def setsockopt(self, level, option, value):
        if option in self.refused:
            raise OSError(self.number, errno.errorcode[self.number])


@pytest.mark.parametrize("number, refused, level, text", [
    (errno.EPERM, SO_BUSY_POLL, "important", "The kernel refuses --busypoll (the capability CAP_NET_ADMIN is missing)"),
    (errno.ENOPROTOOPT, SO_BUSY_POLL, "important", "The kernel refuses --busypoll (ENOPROTOOPT)"),
    (errno.ENOPROTOOPT, SO_PREFER_BUSY_POLL, "info", "This kernel does not prefer busy polling (ENOPROTOOPT)"),
])
def test_a_kernel_that_refuses_is_told_in_one_line(book, number, refused, level, text):
    receiver._poll_busily([Refusing(number, refused)] * 2, 50, book.log)
    book.log.stop()
    line, = book.lines()
    assert text in line and f",{level})" in line
