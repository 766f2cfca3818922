# SPDX-License-Identifier: MIT-0
"""What `gwlbtun show` can show: the columns of each topic for people, its fields for scripts, and rates between two looks."""
from typing import Dict, Iterable, List, NamedTuple, Tuple

from .tables import Column, Row, age, ranges, size


class Topic(NamedTuple):
    """One of the words."""

    columns: Tuple[Column, ...]
    fields: Tuple[str, ...]     # those of `dump`, in this order; new ones are added at the end
    counters: Tuple[str, ...]   # whose rates --watch shows
    identity: Tuple[str, ...]   # what tells one row from another
    empty: str                  # what is said when there are no rows
    rates: Tuple[Column, ...] = ()


def add_rates(topic: Topic, rows: Iterable[Row], before: Iterable[Row], seconds: float) -> None:
    """Adds to each row how much its counters have grown a second."""
    known: Dict[Tuple[object, ...], Row] = {_identify(topic, row): row for row in before}
    for row in rows:
        old = known.get(_identify(topic, row), {})
        for counter in topic.counters:
            if counter in row and counter in old and seconds > 0:
                row[f"{counter}PerSec"] = round(max(row[counter] - old[counter], 0) / seconds, 1)


def _identify(topic: Topic, row: Row) -> Tuple[object, ...]:
    return tuple(row.get(key) for key in topic.identity)


def _text(key: str, title: str) -> Column:
    return Column(title, lambda row: str(row.get(key, "")) or "-")


def _number(key: str, title: str) -> Column:
    return Column(title, lambda row: str(row.get(key, "-")), right=True)


def _size(key: str, title: str, factor: int = 1) -> Column:
    return Column(title, lambda row: size(row[key] * factor) if key in row else "-", right=True)


def _age(title: str) -> Column:
    return Column(title, lambda row: age(row.get("secsSinceLastPacket")), right=True)


def _endpoint(name: str) -> Column:
    """name: the key of its name."""
    return Column("ENDPOINT", lambda row: f"{row['endpoint']} ({row[name]})" if row.get(name) else row["endpoint"] or "-")


def _state(row: Row) -> str:
    return f"{row['state']}: {row['failure']}" if row.get("failure") else str(row["state"])


def _end(number: int) -> Column:
    def text(row: Row) -> str:
        address, port = row[f"address{number}"], row[f"port{number}"]
        if port is None:
            return str(address)
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return Column("ADDRESS", text)


def _protocol(row: Row) -> str:
    words: List[str] = [row["protocol"]]
    if row["kind"] != "flow":
        words.append(row["kind"])
    if row["identifier"] is not None:
        words.append(str(row["identifier"]))
    return " ".join(words)


TOPICS: Dict[str, Topic] = {
    "endpoints": Topic(
        columns=(_endpoint("name"), _text("gwi", "GWI"), _text("gwo", "GWO"), Column("STATE", _state),
                 Column("FLOWS", lambda row: str(row["flowsV4"] + row["flowsV6"]), right=True),
                 _number("pktsToLinux", "TO LINUX"), _number("pktsToGwlb", "TO GWLB"), _age("IDLE")),
        rates=(_size("pktsToLinuxPerSec", "IN/S"), _size("bytesToLinuxPerSec", "IN BIT/S", 8),
               _size("pktsToGwlbPerSec", "OUT/S"), _size("bytesToGwlbPerSec", "OUT BIT/S", 8)),
        fields=("endpoint", "gwi", "gwo", "state", "flowsV4", "flowsV6", "pktsToLinux", "bytesToLinux", "pktsToGwlb",
                "bytesToGwlb", "secsSinceLastPacket", "queueBytes", "queueDrops", "failure", "name"),
        counters=("pktsToLinux", "bytesToLinux", "pktsToGwlb", "bytesToGwlb"), identity=("endpoint",),
        empty="There is no endpoint yet: its first packet makes it."),
    "flows": Topic(
        columns=(Column("ENDPOINT", lambda row: row["name"] or row["endpoint"]), Column("PROTOCOL", _protocol),
                 _end(1), _end(2), _age("IDLE"),
                 _text("cookie", "COOKIE"),
                 Column("GWLB", lambda row: f"{row['gwlbAddress']}:{row['gwlbPort']}")),
        fields=("endpoint", "kind", "protocol", "address1", "port1", "address2", "port2", "identifier", "secsSinceLastPacket",
                "cookie", "attachment", "gwlbAddress", "gwlbPort", "ownAddress", "name"),
        counters=(), identity=(), empty="There is no such flow."),
    "threads": Topic(
        columns=(_text("name", "NAME"), _text("role", "ROLE"), _endpoint("endpointName"),
                 _text("interface", "INTERFACE"), _number("tid", "TID"),
                 Column("CORES", lambda row: ranges(row["cores"])), _text("state", "STATE"), _number("pkts", "PACKETS"),
                 _size("bytes", "BYTES"), _age("IDLE")),
        rates=(_size("pktsPerSec", "PACKETS/S"), _size("bytesPerSec", "BIT/S", 8)),
        fields=("name", "role", "interface", "tid", "cores", "state", "pkts", "bytes", "secsSinceLastPacket", "endpoint",
                "endpointName"),
        counters=("pkts", "bytes"), identity=("tid",), empty="No such thread runs."),
    "drops": Topic(
        columns=(_text("reason", "REASON"), _number("pkts", "PACKETS"), _text("meaning", "MEANING")),
        rates=(_size("pktsPerSec", "PACKETS/S"),),
        fields=("reason", "pkts", "meaning"), counters=("pkts",), identity=("reason",),
        empty="No packet has been dropped."),
}
