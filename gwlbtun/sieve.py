# SPDX-License-Identifier: MIT-0
"""What a socket refuses under overload: a classic BPF program that lets a share of each endpoint's packets pass.

The kernel runs it before it queues a packet. It reads the ENI ID where the load balancer writes it: as the first Geneve
option. Packets without one there are strangers. Which of an endpoint's packets pass is a matter of chance, so each flow of it
has the same share.

The endpoints are found by the lower half of their ENI IDs, in a binary tree of jumps with a few of them at each leaf.
"""
import struct
from typing import Iterable, List, Mapping, Optional, Sequence, Tuple

LOSING_MOST = 128      # endpoints of which a share passes, in one program
ENDPOINTS_MOST = 1024  # in all: with these, it has fewer instructions than the kernel takes

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, where to go on if true and if false, a constant
_LOAD, _LOAD_LENGTH = 0x20, 0x80       # BPF_LD | BPF_W, with BPF_ABS and BPF_LEN
_JUMP, _IF_EQUAL, _IF_LESS_NOT = 0x05, 0x15, 0x35  # BPF_JMP, with BPF_JA, and with BPF_K and BPF_JEQ or BPF_JGE
_RETURN = 0x06
_RANDOM = 0xFFFFF000 + 56              # SKF_AD_OFF + SKF_AD_RANDOM: a random number, 32 bits wide
_WHOLE, _NOTHING = 0xFFFFFFFF, 0

# In the UDP datagram: 8 bytes of UDP header, 8 of Geneve header, then the options.
_OPTION_AT, _ENI_AT, _END = 16, 20, 28
_ENI_OPTION = 0x01080102               # class 0x0108, type 1, two words of 4 bytes
_LEAF = 8                              # endpoints

Instruction = Tuple[int, int, int, int]


def program(shares: Mapping[int, float], rest: float) -> bytes:
    """shares: by ENI ID, at most ENDPOINTS_MOST; rest: that of strangers. A share of 1 is everything."""
    strangers = _verdict(rest)
    code: List[Instruction] = [
        (_LOAD_LENGTH, 0, 0, 0), (_IF_LESS_NOT, len(strangers), 0, _END), *strangers,
        (_LOAD, 0, 0, _OPTION_AT), (_IF_EQUAL, len(strangers), 0, _ENI_OPTION), *strangers,
        (_LOAD, 0, 0, _ENI_AT + 4)]
    # Of those that have the same half, first the ones that are told by all of it.
    code += _tree(sorted(shares.items(), key=lambda item: (item[0] & 0xFFFFFFFF, item[1])), strangers)
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _tree(endpoints: Sequence[Tuple[int, float]], strangers: List[Instruction]) -> List[Instruction]:
    """endpoints: in the order of the lower halves of their IDs."""
    middle = len(endpoints) // 2
    while middle and (endpoints[middle - 1][0] ^ endpoints[middle][0]) & 0xFFFFFFFF == 0:
        middle -= 1  # those with the same half stay together
    if len(endpoints) <= _LEAF or not middle:
        return [instruction for eni, share in endpoints for instruction in _check(eni, share)] + strangers
    lower = _tree(endpoints[:middle], strangers)
    return [(_IF_LESS_NOT, 0, 1, endpoints[middle][0] & 0xFFFFFFFF), (_JUMP, 0, 0, len(lower)), *lower,
            *_tree(endpoints[middle:], strangers)]


def _check(eni: int, share: float) -> List[Instruction]:
    """Who has everything is known by half of the ID: whoever would pass for it could as well use all of it."""
    verdict = _verdict(share)
    if share >= 1:
        return [(_IF_EQUAL, 0, len(verdict), eni & 0xFFFFFFFF), *verdict]
    return [(_IF_EQUAL, 0, 3 + len(verdict), eni & 0xFFFFFFFF), (_LOAD, 0, 0, _ENI_AT),
            (_IF_EQUAL, 0, len(verdict), eni >> 32), *verdict, (_LOAD, 0, 0, _ENI_AT + 4)]


def _verdict(share: float) -> List[Instruction]:
    if share >= 1:
        return [(_RETURN, 0, 0, _WHOLE)]
    return [(_LOAD, 0, 0, _RANDOM), (_IF_LESS_NOT, 1, 0, int(share * (1 << 32))), (_RETURN, 0, 0, _WHOLE),
            (_RETURN, 0, 0, _NOTHING)]


def fair_share(offered: Iterable[float], capacity: float) -> Optional[float]:
    """The most that each may have so that all together have the capacity: max-min fairness. None: all may have all."""
    demands = sorted(offered)
    for index, demand in enumerate(demands):
        left = len(demands) - index
        if demand * left > capacity:
            return capacity / left
        capacity -= demand
    return None
