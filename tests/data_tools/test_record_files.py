"""What the tools read and write: every compression, whole or not at all."""

import pytest

from data_tools.shared.record_files import find_records, lines_to, read_records, write_records

RECORDS = [{"query": "问一", "pos": ["答\n一"], "task": "qa"}, {"query": "问二", "pos": ["答\u2028二"]}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_records_come_back_as_they_were_written(tmp_path, name):
    assert write_records(tmp_path / name, iter(RECORDS)) == 2
    assert list(read_records(tmp_path / name)) == [(f"{tmp_path / name}:{i + 1}", r) for i, r in enumerate(RECORDS)]
    assert find_records([str(tmp_path)]) == [tmp_path / name]
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_crash_leaves_what_was_there(tmp_path, name):
    write_records(tmp_path / name, RECORDS)
    with pytest.raises(RuntimeError), lines_to(tmp_path / name) as stream:
        stream.write("{}\n")
        raise RuntimeError
    assert len(list(read_records(tmp_path / name))) == 2
    assert [p.name for p in tmp_path.iterdir()] == [name]
