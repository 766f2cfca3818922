# SPDX-License-Identifier: MIT-0
"""The alert rules and the dashboard: valid, whole, and alerts come when they should. The live metrics have their names:
tests/daemon/test_metrics.py."""
import json
import re

import pytest

from documents import HEALTH, coded, rows
from monitoring import DASHBOARD, RULES, queries
from scrapes import promtool

REASONS = [name for row in rows(HEALTH.split("## `drops`")[1].split("##")[0]) for name in coded(row[0])]
# What Linux sends out of every interface by itself, and what comes while an endpoint goes.
HARMLESS = {"not_ip", "endpoint_gone", "no_return"}


@pytest.mark.debian
def test_the_rules_are_valid():
    promtool("check", "rules", RULES)


def test_each_alert_says_what_is_wrong_and_what_to_do():
    alerts = RULES.read_text().split("- alert: ")[1:]
    assert len(alerts) == len({alert.split()[0] for alert in alerts}) > 15
    for alert in alerts:
        assert re.search(r"severity: (critical|warning)\n", alert), alert
        assert re.search(r"summary: .{20,}\n", alert), alert
        assert re.search(r"description: >-\n +\S.{20,}\n", alert), alert


def test_every_reason_for_drops_has_an_alert():
    told = {reason for text in re.findall(r'reason=~?"([a-z_|]+)"', RULES.read_text()) for reason in text.split("|")}
    assert set(REASONS) - told == HARMLESS and told <= set(REASONS)


@pytest.mark.debian
def test_the_queries_of_the_dashboard_are_valid(tmp_path):
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": [
        {"record": "x", "expr": query, "labels": {"number": str(number)}} for number, query in enumerate(queries())]}]}))
    promtool("check", "rules", path)


def test_the_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".") and panel["targets"], panel["title"]
            for target in panel["targets"]:
                assert "$instance" in target["expr"] and "$job" in target["expr"], target
    assert len({(panel["type"], panel["title"]) for panel in board["panels"]}) == len(board["panels"])


JOB = 'job="gwlbtun", instance="a"'
QUIET = "0x60"
CASES = {
    "GwlbtunDown": ({f"up{{{JOB}}}": "1x5 0x9"}, 5, 9, ""),
    "GwlbtunUnhealthy": ({f"gwlbtun_healthy{{{JOB}}}": "1x5 0x9"}, 5, 9, ""),
    "GwlbtunRestarts": ({f"process_start_time_seconds{{{JOB}}}": "1x5 2x1 3x1 4x5"}, 6, 11, ""),
    "GwlbtunReceiveBufferDrops": ({f"gwlbtun_socket_drops_total{{{JOB}}}": "0x10 0+60x20"}, 10, 25, ""),
    "GwlbtunReceiversStalled": ({f"gwlbtun_socket_drops_total{{{JOB}}}": "0x10 0+60x20",
                                 f'gwlbtun_udp_receiver_packets_in_total{{{JOB}, port="6081", thread="0"}}': "0+60x10 600x20",
                                 # Flows that are known go on in the kernel.
                                 f"gwlbtun_from_gwlb_packets_total{{{JOB}}}": "0+60x30"}, 10, 25, ""),
    "GwlbtunThreadStalled": ({f'gwlbtun_queue_bytes{{{JOB}, eni="1"}}': "0x10 9x20",
                              **{f'gwlbtun_tunnel_thread_handed_on_packets_total{{{JOB}, eni="{eni}", thread="0"}}': moves
                                 for eni, moves in ((1, "0+60x10 600x20"), (2, "0+60x30"))},
                              f'gwlbtun_queue_bytes{{{JOB}, eni="2"}}': "9x30",
                              f'gwlbtun_tunnel_packets_total{{{JOB}, eni="1", direction="in"}}': "0+60x30"}, 10, 25, "1"),
    "GwlbtunOneDirectional": ({f'gwlbtun_tunnel_packets_total{{{JOB}, eni="{eni}", direction="in"}}': "0+600x60"
                               for eni in (1, 2)}
                              | {f'gwlbtun_tunnel_sent_packets_total{{{JOB}, eni="1", direction="out"}}': QUIET,
                                 f'gwlbtun_tunnel_sent_packets_total{{{JOB}, eni="2", direction="out"}}': "0+60x60"},
                              3, 30, "1"),
    "GwlbtunFlowsNearLimit": ({f"gwlbtun_flows{{{JOB}}}": "10x9 90x20", f"gwlbtun_flows_limit{{{JOB}}}": "100x30"}, 9, 20, ""),
    "GwlbtunNotes": ({f"gwlbtun_notes{{{JOB}}}": "0x9 1x20"}, 10, 20, ""),
    "GwlbtunHooksFail": ({f'gwlbtun_hooks_total{{{JOB}, action="create", result="failed"}}': "0x5 1x10"}, 5, 10, ""),
    "GwlbtunSenderRefused": ({f'gwlbtun_drops_total{{{JOB}, reason="source_refused"}}': "0x5 0+60x40"}, 5, 30, ""),
}


@pytest.mark.debian
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_comes_when_it_should_and_not_before(alert, tmp_path):
    """Of each case: the series by the minute, when all is well still, when it is not, and which endpoint that is about."""
    series, well, ill, eni = CASES[alert]
    path = tmp_path / "test.yml"
    labels = {"job": "gwlbtun", "instance": "a", **({"eni": eni} if eni else {})}
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [{
        "interval": "1m", "input_series": [{"series": name, "values": values} for name, values in series.items()],
        # Not the texts and other labels, which promtool would compare as well: how many there are, for which endpoint.
        "promql_expr_test": [
            {"expr": f'count by ({", ".join(labels)}) (ALERTS{{alertname="{alert}", alertstate="firing"}})',
             "eval_time": f"{minute}m", "exp_samples": expected}
            for minute, expected in ((well, []), (ill, [{"labels": "{" + ", ".join(
                f'{key}="{value}"' for key, value in labels.items()) + "}", "value": 1}]))]}]}))
    promtool("test", "rules", path)
