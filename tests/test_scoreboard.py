"""The table of models and sets."""

from zh_embedder.scoreboard import show


def rows(*entries: tuple) -> list[dict]:
    return [dict(zip(("model", "data", "metric", "value"), entry, strict=True)) for entry in entries]


def test_the_table_has_a_line_for_each_model_and_set_and_its_mean():
    table = show(
        rows(
            ("base", "qa", "ndcg@10", 0.25),
            ("base", "qa", "mrr@10", 0.5),
            ("base", "tool", "ndcg@10", 0.75),
            ("base", "tool", "mrr@10", 0.0),
            ("mine", "qa", "ndcg@10", 1.0),
            ("mine", "qa", "mrr@10", 1.0),
            ("mine", "tool", "ndcg@10", 0.5),
            ("mine", "tool", "mrr@10", 0.12345),
        ),
        ("ndcg@10", "mrr@10"),
    )
    assert [line.split() for line in table.splitlines()] == [
        ["model", "data", "ndcg@10", "mrr@10"],
        ["base", "qa", "0.2500", "0.5000"],
        ["base", "tool", "0.7500", "0.0000"],
        ["base", "mean", "0.5000", "0.2500"],
        ["mine", "qa", "1.0000", "1.0000"],
        ["mine", "tool", "0.5000", "0.1235"],
        ["mine", "mean", "0.7500", "0.5617"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1  # columns stand below each other


def test_a_single_set_has_no_mean():
    assert [line.split() for line in show(rows(("base", "qa", "map", 0.5)), ("map",)).splitlines()] == [
        ["model", "data", "map"],
        ["base", "qa", "0.5000"],
    ]
