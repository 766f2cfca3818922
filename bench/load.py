# SPDX-License-Identifier: MIT-0
"""The generator at work: commands to it, its answers, and how much has come back to it."""
import json
import pathlib
import select
import subprocess
from typing import Dict, List

import lab
from processes import BUILD, BenchError, start, stop


class Generator:
    """bench/generator/ at work; its main.c explains the commands and the answers."""

    def __init__(self, bed: lab.Bed, core: int, options: List[str]) -> None:
        self._process = start(
            bed.balancer, core,
            [str(BUILD / "bench-generator"), "--device", "gwlb", "--source", lab.SOURCE, "--probe", lab.PROBE,
             "--target", lab.HOST, "--mac", bed.host_mac, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            hello = self._answer(30)
        except BaseException:
            self.stop()
            raise
        self.packet_size: int = hello["packet_size"]
        self.frame_overhead: int = hello["frame_overhead"]

    def ask(self, command: str, timeout: float = 90) -> Dict:
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer(timeout)

    def counters(self) -> List[int]:
        """Frames and bytes that its device has received so far."""
        for line in pathlib.Path(f"/proc/{self._process.pid}/net/dev").read_text().splitlines():
            name, _, values = line.partition(":")
            if name.strip() == "gwlb":
                size, frames = values.split()[:2]
                return [int(frames), int(size)]
        raise BenchError("the generator's device is gone")

    def packets(self, since: List[int], until: List[int]) -> int:
        """The packets returned between two readings of the device's counters.

        All packets are of one size, so k of them in one super-packet are a frame of overhead + k * size bytes, and the
        number follows from frames and bytes. A remainder would mean that something else had come along.
        """
        frames, size = until[0] - since[0], until[1] - since[1]
        packets, remainder = divmod(size - frames * self.frame_overhead, self.packet_size)
        if remainder:
            raise BenchError(f"{size} bytes in {frames} frames are no whole number of packets: was something else sent?")
        return packets

    def stop(self) -> None:
        self._process.stdin.close()
        stop(self._process)
        self._process.stdout.close()

    def _answer(self, timeout: float) -> Dict:
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise BenchError("the generator does not answer")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the generator ended; its reason stands above")
        return json.loads(line)
