# SPDX-License-Identifier: MIT-0
"""One descriptor for many sources."""
import os
import select

from gwlbtun.lookout import Lookout


def test_each_source_is_heard_while_it_is_known():
    lookout, heard = Lookout(None), []
    pipes = [os.pipe() for _ in range(3)]
    for number, (reader, _) in enumerate(pipes):
        lookout.add(reader, lambda number=number: heard.append(number))
    poll = select.poll()
    poll.register(lookout, select.POLLIN)
    assert not poll.poll(0)
    for _, writer in pipes[1:]:
        os.write(writer, b"x")
    assert poll.poll(0)
    lookout.hear()
    assert sorted(heard) == [1, 2]
    lookout.remove(pipes[1][0])
    lookout.remove(pipes[1][0])
    lookout.hear()
    assert sorted(heard) == [1, 2, 2]
    os.close(pipes[2][0])  # closed without a word: the kernel forgets it
    lookout.hear()
    assert len(heard) == 3 and not poll.poll(0)
    for fd in (*pipes[0], *pipes[1], pipes[2][1]):
        os.close(fd)
