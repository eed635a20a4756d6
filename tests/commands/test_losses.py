"""`zh-embedder losses`."""

from zh_embedder.losses.table import LOSSES


def command(*words):
    from zh_embedder.cli import main

    return main(["losses", *words])


def test_the_list_names_every_loss_with_its_records_and_options(capsys):
    assert command() == 0
    printed = capsys.readouterr().out
    assert set(LOSSES) <= {line.split(" ")[0] for line in printed.splitlines()}
    assert "margin_mse              queries with keys and teacher_scores  scale=1.0" in printed
    assert "temperature=0.01* in_batch=True*" in printed


def test_a_loss_is_explained_with_its_source(capsys):
    assert command("angle") == 0
    printed = capsys.readouterr().out
    assert "arXiv 2309.12871" in printed
    assert "options: temperature=0.05" in printed
    assert command("angel") == 2
    assert "did you mean 'angle'?" in capsys.readouterr().err
