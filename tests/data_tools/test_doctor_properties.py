"""The doctor on anything: findings and exit codes, never an exception; the copy can be read and keeps right records."""

import gzip
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.doctor import main
from tests.data_tools.test_doctor import clean
from zh_embedder.data.schema import ROW_FIELDS, parse_line
from zh_embedder.data.sources import read_lines

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["nan", "['一', '二']", "\\u4f60\\u597d", "%E4%BD%A0%E5%A5%BD", "[CLS]你好[SEP]", "{'a': ", "\\ud800"]
    ),
)
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=4,
)
NAMES = [*ROW_FIELDS, "text1", "text2", "text", "history", "pos_scores", "neg_scores", "pos_index", "neg_index"]
RIGHT = {
    "query": "公司什么时候开会呢",
    "pos": ["公司明天在北京开会"],
    "neg": ["医院检查的结果正常", "别的"],
    "task": "qa",
}
NAME = st.one_of(st.sampled_from([*RIGHT]), st.sampled_from(NAMES))  # one that is there as often as any other
WRONG = st.dictionaries(NAME, VALUE, min_size=1, max_size=2).map(lambda changes: {**RIGHT, **changes})
LINE = st.one_of(WRONG.map(lambda record: json.dumps(record).encode()), st.binary(max_size=40))


def diagnosed(folder, raw, name="t.jsonl"):
    """Exit code, findings, and the lines of the copy."""
    path, out = folder / name, folder / "fixed"
    path.write_bytes(raw)
    shutil.rmtree(out, ignore_errors=True)  # a bug is exit code 1, too, and leaves neither
    (folder / "f.json").unlink(missing_ok=True)
    code = main([str(path), "--fix", str(out), "--json", str(folder / "f.json"), "--show", "0"])
    found = json.loads((folder / "f.json").read_text("utf-8"))["findings"]
    return code, found, [text for _, text in read_lines(out / "records" / name) if text]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(lines=st.lists(LINE, min_size=1, max_size=6))
def test_any_lines_give_findings_and_a_copy_that_can_be_read(tmp_path, lines):
    right = json.dumps(RIGHT).encode()
    code, found, fixed = diagnosed(tmp_path, b"\n".join([right, *lines]) + b"\n")
    assert code == int(any(one["severity"] == "error" for one in found))
    for text in fixed:
        parse_line(text, "copy")
    assert json.loads(fixed[0]) == RIGHT


def test_records_without_findings_are_copied_as_they_are(tmp_path):
    records = clean(10)
    _, found, fixed = diagnosed(tmp_path, "\n".join(map(json.dumps, records)).encode())
    assert {one["kind"] for one in found} == {"small_dataset"}
    assert [json.loads(text) for text in fixed] == records


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst"])
def test_a_file_that_ends_early_is_an_error_with_exit_code_1(tmp_path, name):
    raw = gzip.compress("\n".join(map(json.dumps, clean(200))).encode())[:-40] if name.endswith("gz") else b"garbage"
    code, found, _ = diagnosed(tmp_path, raw, name)
    assert code == 1
    assert "unreadable" in {one["kind"] for one in found}
