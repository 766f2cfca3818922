# SPDX-License-Identifier: MIT-0
"""Restart in place: another program takes the place of this one, in the same process, and not a packet is lost.

Step by step, with the module of each:

1. rehearsal.py: the new program starts as a child. It reads the options, loads its shim and compares what both programs have
   to agree on. It changes nothing, and answers yes, or why not.
2. handover.py: after a yes, endpoints settle, receivers return at a batch boundary, tunnel threads write out what the rings
   hold. What arrives from now on waits in sockets and TUN queues.
3. state.py: what the next program has to know goes into a memory file; descriptors stay open.
4. execve(): the process has the same number, and another program.
5. inheritance.py: that program takes what it would otherwise make: sockets, the flow table, endpoints with their interfaces.
   Its hooks do not run.
"""
