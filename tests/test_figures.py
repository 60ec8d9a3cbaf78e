"""Figures: the rows that people read, from what a manifest says."""

from __future__ import annotations

from typing import Any

from fastprune.reports import figures


def details(**more: Any) -> dict[str, Any]:
    counted = {"name": "macs", "measure": "MACs", "before": 2.5e9, "after": 1.25e9, "conditions": {}}
    return {"costs": [counted], "parameters": {"before": 100, "after": 60}, "metrics": {}} | more


def test_every_figure_has_a_row() -> None:
    timed = {"batch_size": 32, "seq_len": 53, "dense": 210.4, "pruned": 88.14, "speedup": 2.387}
    found = figures.rows(
        details(
            size={"before": 91e6, "after": 69e6},
            latency=timed,
            metrics={"dense": {"accuracy": 0.9}, "pruned": {"accuracy": 0.88}, "spearman": 0.5},
        )
    )
    assert found == [
        ("MACs", "2.5 G", "1.25 G", "50%"),
        ("parameters", "100", "60", "60%"),
        ("size", "91 MB", "69 MB", "76%"),
        ("latency, 32 x 53 tokens", "210.4 ms", "88.14 ms", "2.39x as fast"),
        ("accuracy", "0.9000", "0.8800", "-0.0200"),
        ("spearman", "", "0.5000", ""),
    ]


def test_without_labels_the_agreement_is_told() -> None:
    assert figures.rows(details(metrics={"fidelity": {"cosine": 0.93}}))[-1] == ("agreement (cosine)", "", "0.9300", "")


def test_what_was_predicted_is_called_so() -> None:
    table = {"batch_size": 1, "seq_len": 64}
    cost = {"name": "latency", "measure": "ms", "before": 10.0, "after": 5.0, "conditions": table}
    assert figures.rows(details(costs=[cost]))[0] == ("predicted latency", "10 ms", "5 ms", "50%")
    assert figures.share_of(cost) == "latency"


def test_comparisons_are_those_of_the_printed_figures() -> None:
    timed = {"batch_size": 1, "seq_len": 8, "dense": 3570.2, "pruned": 2341.4, "speedup": 1.61}
    metrics = {"dense": {"accuracy": 0.79996}, "pruned": {"accuracy": 0.79974}}
    found = figures.rows(details(size={"before": 1.004e9, "after": 5.047e8}, latency=timed, metrics=metrics))
    assert found[2:] == [
        ("size", "1 GB", "505 MB", "50%"),
        ("latency, 1 x 8 tokens", "3570 ms", "2341 ms", "1.52x as fast"),
        ("accuracy", "0.8000", "0.7997", "-0.0003"),
    ]


def test_numbers_that_json_has_not() -> None:
    found = figures.rows(details(metrics={"dense": {"pearson": 0.5}, "pruned": {"pearson": None}}))
    assert found[-1] == ("pearson", "0.5000", "", "")
