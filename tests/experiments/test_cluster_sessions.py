"""The model of session servers gives what is computed by hand, and what was measured on one."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("simpy", reason="simulates with simpy")

from experiments import cluster_sessions, thousand_gpus
from experiments.cluster_server import Costs, Load, Rule, line, simulate

EXACT = Costs(forward=((1, 0.010), (2, 0.010)), loop=((1, 0.001), (2, 0.002)), bucket=2)


def test_steps_take_what_they_take_by_hand() -> None:
    """10 ms of forward and 1 ms of the event loop for each; two sessions share a forward."""
    one = simulate(EXACT, Load(fps=None), 1, 1, 4.0)
    assert one["latency_ms"] == {"p50": 11.0, "p95": 11.0, "p99": 11.0}
    two = simulate(EXACT, Load(fps=None), 2, 1, 23.0)
    assert two["latency_ms"] == {"p50": 12.0, "p95": 12.0, "p99": 12.0}
    assert two["steps_per_s"] == pytest.approx(2 / 0.012, rel=0.01)


def test_a_forward_waits_as_its_rule_says() -> None:
    """Sessions with phases of their own: nobody waits where the rule has no patience."""
    costs = Costs(forward=((1, 0.010),), loop=((1, 0.0001), (64, 0.0064)), bucket=64)
    never = Rule(window=0.0, longest=0.0, patience=0.0, most_patience=0.0)
    waits, not_at_all = (simulate(costs, Load(), 96, 1, 8.0, x) for x in (Rule(), never))
    assert not_at_all["latency_ms"]["p50"] + 5.0 < waits["latency_ms"]["p50"]


def test_lines_between_points() -> None:
    points = ((1.0, 10.0), (3.0, 20.0), (5.0, 0.0))
    assert [line(points, x) for x in (1, 2, 4, 6)] == [10.0, 15.0, 10.0, -10.0]
    assert line(points[:1], 7) == 10.0


def test_sessions_of_a_lost_server_go_on_elsewhere() -> None:
    load = Load(stays_s=1e9, notices_s=1.0)
    found = simulate(EXACT, load, 30, 3, 12.0, losses=1)
    assert found["displaced"] == 10 and found["outage_s"]["longest"] < 1.5
    assert found["steps_per_s"] == pytest.approx(30 * load.fps, rel=0.05)
    assert not math.isnan(found["once_resumed_ms"]["p99"])


def test_latencies_as_measured() -> None:
    """As close as docs/experiments/cluster.md says; closer where all sessions step together."""
    for row in cluster_sessions.validate(6.0):
        assert abs(row["steps_per_s"]["error"]) < 0.05, row
        most = 0.12 if row["part"] == "several" and row["clients"] <= 128 else 0.3
        assert all(abs(row[q]["error"]) < most for q in ("p50", "p95", "p99")), row


def test_the_page_has_the_figures_of_the_files() -> None:
    page = thousand_gpus.PAGE.read_text()
    assert thousand_gpus.rewrite(page) == page, "run python -m experiments.thousand_gpus"
