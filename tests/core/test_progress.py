"""Bars count what is done and say so where the work takes long."""

import io

import pytest

from zh_embedder.core import progress
from zh_embedder.core.progress import Bar, with_bar, write_above


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)


def test_quick_work_shows_nothing(capfd):
    with Bar(3) as bar:
        bar.advance(3, tokens=5)
    assert list(with_bar("abc", name="letters", unit="letters")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


def test_a_bar_counts_texts_and_tokens_on_top_of_an_earlier_run(at_once):
    with Bar(10, name="encoding", done=4) as bar:
        bar.advance(2, tokens=30)
        bar.advance(1, tokens=12)
        line = str(bar)
        assert (bar.n, bar.tokens) == (7, 42)
    assert line.startswith("encoding:  70%")
    assert "7/10" in line
    assert " texts/s" in line
    assert line.rstrip("]").endswith(" tokens/s")


def test_items_are_counted_when_they_are_done_with(at_once, capfd):
    assert list(with_bar(["a", "b"], name="reading", unit="files")) == ["a", "b"]
    said = capfd.readouterr().err
    assert "reading:   0%" in said
    assert " files" in said


def test_what_is_not_shown_still_counts(at_once, capfd):
    with Bar(2, shown=False) as bar:
        bar.advance(2, tokens=7)
    assert bar.tokens == 7
    assert list(with_bar("ab", name="x", unit="letters", shown=False)) == ["a", "b"]
    assert capfd.readouterr().err == ""


def test_work_that_is_given_up_takes_its_bar_away(at_once, capfd):
    items = with_bar(range(9), name="reading", unit="files")
    next(items)
    items.close()
    assert capfd.readouterr().err.endswith("\r")


def test_messages_go_above(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    write_above("a message")
    assert stream.getvalue() == "a message\n"
