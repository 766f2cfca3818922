# SPDX-License-Identifier: MIT-0
"""Packets for whose flow the table has no room are counted, all of them, under their own endpoint."""
import subprocess

import pytest

import packets
from gwlbtun import shim
from lab import ENI
from test_native import FLAGS, NATIVE
from workbench import Bench, drops, encapsulated

# A table that learns nothing.
FULL = """
#include "flow.h"

unsigned __wrap_gw_flows_relearn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                                 uint32_t now, enum gw_flow_news *news);

unsigned __wrap_gw_flows_relearn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                                 uint32_t now, enum gw_flow_news *news)
{
	(void)flows, (void)key, (void)path, (void)now;
	*news = GW_FLOW_KNOWN;
	return GW_drop_flows_full;
}
"""


@pytest.fixture
def bench(tmp_path):
    source, library = tmp_path / "full.c", tmp_path / "gwlbtun.so"
    source.write_text(FULL)
    subprocess.run(["cc", *FLAGS, "-O1", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{NATIVE}", "-o", library,
                    f'-DGW_BUILD_ID="{shim._source_digest()}"', "-Wl,--wrap=gw_flows_relearn", source,
                    *sorted(NATIVE.glob("*.c"))], check=True)
    made = Bench(shim=shim.Shim(library))
    yield made
    made.close()


def test_packets_of_flows_that_find_no_room_are_the_endpoints_drops(bench):
    for eni, times in (ENI, 5), (ENI + 1, 2):
        bench.add(eni)
        for size in range(times):
            bench.send(encapsulated(eni, packets.udp("10.0.0.1", "10.0.0.2", 1, 2, bytes(size))))
    counters = bench.receive()
    assert drops(counters) == {"flows_full": 7} and counters["packets_in"] == 7
    assert [bench.endpoints[eni].flow_drops() for eni in (ENI, ENI + 1)] == [5, 2]
    assert [bench.endpoints[eni].ring_drops() for eni in (ENI, ENI + 1)] == [0, 0]
