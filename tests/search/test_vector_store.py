"""A folder of vectors is whole or says what is missing; what is torn or made otherwise is never taken for whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import zh_embedder
from zh_embedder.core.errors import UserError
from zh_embedder.data.text_files import InputFile
from zh_embedder.search.vector_store import (
    Manifest,
    missing_shards,
    only_writer,
    open_vectors,
    read_manifest,
    start_folder,
    write_shard,
)

INPUTS = (InputFile("a.jsonl", 7, "a" * 64), InputFile("b.txt", 4, "b" * 64))
MANIFEST = Manifest(
    model="base", weights="w", tokenizer="t", pooling="cls", normalize=True, metric="cos", dimension=3, prompt="为",
    max_length=16, dtype="fp32", field=None, with_title=False, shard_size=4, file_format="npy",
    vector_dtype="float32", inputs=INPUTS,
)  # fmt: skip
ROWS = (4, 4, 3)  # 11 texts by 4


def rows_of(shard: int) -> np.ndarray:
    return np.arange(ROWS[shard] * 3, dtype=np.float32).reshape(-1, 3) + 100 * shard


def ids_of(shard: int) -> list[str]:
    return [f"文{shard}-{row}" for row in range(ROWS[shard])]


def begin(folder, manifest=MANIFEST, *, rank=0, ranks=1, overwrite=False) -> list[int]:
    return start_folder(folder, manifest, rank=rank, ranks=ranks, overwrite=overwrite)


def fill(folder, manifest=MANIFEST, shards=(0, 1, 2)):
    begin(folder, manifest)
    for shard in shards:
        write_shard(folder, manifest, shard, ids_of(shard), rows_of(shard))
    return folder


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- whole folders --------------------------------------------------------------------------------------------------


def test_the_manifest_knows_its_shards_and_is_read_as_it_was_written(tmp_path):
    assert [MANIFEST.rows(shard) for shard in MANIFEST.shards] == list(ROWS)
    assert MANIFEST.texts == 11
    assert [replace(MANIFEST, shard_size=n).rows(0) for n in (1, 11, 12)] == [1, 11, 11]
    assert len(replace(MANIFEST, shard_size=11).shards) == 1
    begin(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    raw = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert raw["shards"][2] == {"vectors": "vectors-00002.npy", "ids": "ids-00002.json", "rows": 3}
    assert (raw["format"], raw["texts"], raw["prompt"]) == (1, 11, "为")


def test_instructions_left_out_of_the_mean_are_other_vectors_and_folders_without_a_word_of_it_have_them_in(tmp_path):
    begin(tmp_path)
    assert "include_prompt" not in json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert read_manifest(tmp_path).include_prompt is True
    without = replace(MANIFEST, include_prompt=False)
    assert without.fingerprint != MANIFEST.fingerprint
    with pytest.raises(UserError, match="include_prompt: "):
        begin(tmp_path, without)
    begin(tmp_path / "other", without)
    assert read_manifest(tmp_path / "other") == without


@pytest.mark.parametrize("file_format", ["npy", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_written_is_read_back_memory_mapped(tmp_path, file_format, dtype):
    manifest = replace(MANIFEST, file_format=file_format, vector_dtype=dtype)
    vectors = zh_embedder.open_vectors(fill(tmp_path, manifest))
    assert (len(vectors), vectors.dimension, vectors.manifest) == (11, 3, manifest)
    for shard, (ids, rows) in enumerate(vectors):
        assert ids == ids_of(shard)
        assert isinstance(rows, np.memmap)
        assert rows.dtype == dtype
        assert not rows.flags.writeable
        assert np.array_equal(rows, rows_of(shard))
    assert shard == 2
    assert vectors.ids() == [name for shard in range(3) for name in ids_of(shard)]
    assert np.array_equal(vectors.numpy(), np.concatenate([rows_of(shard) for shard in range(3)]))
    assert [p for p in names(tmp_path) if p.startswith(".")] == []


def test_the_files_are_what_other_libraries_read(tmp_path):
    fill(tmp_path / "npy")
    assert np.array_equal(np.load(tmp_path / "npy" / "vectors-00001.npy"), rows_of(1))
    assert json.loads((tmp_path / "npy" / "ids-00001.json").read_text("utf-8"))["ids"] == ids_of(1)
    fill(tmp_path / "safe", replace(MANIFEST, file_format="safetensors"))
    tensors = load_file(tmp_path / "safe" / "vectors-00001.safetensors")
    assert tensors.keys() == {"vectors"}
    assert np.array_equal(tensors["vectors"], rows_of(1))


# ---- folders that are not whole -------------------------------------------------------------------------------------


def test_an_incomplete_folder_is_refused_and_names_its_missing_shards(tmp_path):
    fill(tmp_path, shards=(1,))
    with pytest.raises(UserError, match=r"2 of 3 shards are missing \(0, 2\)"):
        open_vectors(tmp_path)
    many = replace(MANIFEST, shard_size=1, inputs=(InputFile("a", 99, ""),))
    begin(tmp_path / "many", many)
    with pytest.raises(UserError, match=r"99 of 99 shards are missing \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"):
        open_vectors(tmp_path / "many")


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def change_ids(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


TEARS = {
    "no ids": lambda folder: (folder / "ids-00001.json").unlink(),
    "no vectors": lambda folder: next(folder.glob("vectors-00001.*")).unlink(),
    "empty ids": lambda folder: cut(folder / "ids-00001.json", 0),
    "half of the ids": lambda folder: cut(folder / "ids-00001.json", 90),
    "empty vectors": lambda folder: cut(next(folder.glob("vectors-00001.*")), 0),
    "half of the header": lambda folder: cut(next(folder.glob("vectors-00001.*")), 40),
    "half of the vectors": lambda folder: cut(next(folder.glob("vectors-00001.*")), -20),
    "vectors and more": lambda folder: next(folder.glob("vectors-00001.*")).open("ab").write(bytes(12)),
    "made in another way": lambda folder: change_ids(folder / "ids-00001.json", fingerprint="0" * 64),
    "an id too few": lambda folder: change_ids(folder / "ids-00001.json", ids=["x"] * 3),
    "not an object": lambda folder: (folder / "ids-00001.json").write_text("[]"),
}


@pytest.mark.parametrize("file_format", ["npy", "safetensors"])
@pytest.mark.parametrize("tear", [tear for tear in TEARS if tear != "vectors and more"])
def test_a_torn_shard_is_missing_and_made_again(tmp_path, tear, file_format):
    manifest = replace(MANIFEST, file_format=file_format)
    fill(tmp_path, manifest)
    TEARS[tear](tmp_path)
    assert missing_shards(tmp_path, manifest) == [1]
    with pytest.raises(UserError, match=r"1 of 3 shards are missing \(1\)"):
        open_vectors(tmp_path)
    assert begin(tmp_path, manifest) == [1]
    write_shard(tmp_path, manifest, 1, ids_of(1), rows_of(1))
    assert np.array_equal(open_vectors(tmp_path).shard(1)[1], rows_of(1))


def test_a_safetensors_file_that_is_too_long_is_torn(tmp_path):
    """The header of .npy says how long it is; here only the size does."""
    manifest = replace(MANIFEST, file_format="safetensors")
    fill(tmp_path, manifest)
    TEARS["vectors and more"](tmp_path)
    assert missing_shards(tmp_path, manifest) == [1]


@pytest.mark.parametrize("rows", [rows_of(0)[:3], rows_of(0)[:, :2], rows_of(0).astype(np.float64)], ids=str)
def test_vectors_of_another_shape_or_type_are_not_whole(tmp_path, rows):
    fill(tmp_path)
    np.save(tmp_path / "vectors-00000.npy", rows)
    assert missing_shards(tmp_path, MANIFEST) == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "manifest.json: is missing, expected a folder that `zh-embedder encode` has written"),
        ("{", "manifest.json: not valid JSON"),
        ("[]", "expected a manifest of `zh-embedder encode`, format 1"),
        ('{"format": 1}', "expected a manifest of `zh-embedder encode`, format 1"),
        ('{"format": 2}', "expected a manifest of `zh-embedder encode`, format 1"),
    ],
)
def test_another_folder_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_vectors(tmp_path)


# ---- going on and starting anew -------------------------------------------------------------------------------------


def test_whole_shards_are_kept_and_torn_files_of_a_killed_run_go(tmp_path):
    fill(tmp_path, shards=(0, 2))
    kept = (tmp_path / "vectors-00002.npy").stat().st_mtime_ns
    for name in (".vectors-00001.npy.partial", ".ids-00001.json.partial", "vectors-00001.npy"):
        (tmp_path / name).write_bytes(b"torn")
    (tmp_path / "notes.txt").write_text("mine")
    assert begin(tmp_path) == [1]
    assert names(tmp_path) == [
        "ids-00000.json", "ids-00002.json", "manifest.json", "notes.txt", "vectors-00000.npy", "vectors-00002.npy",
    ]  # fmt: skip
    assert (tmp_path / "vectors-00002.npy").stat().st_mtime_ns == kept


CHANGES = {
    "weights": "other", "tokenizer": "other", "pooling": "mean", "normalize": False, "metric": "ip", "dimension": 4,
    "prompt": "问", "max_length": 32, "dtype": "bf16", "field": "body", "with_title": True, "shard_size": 5,
    "file_format": "safetensors", "vector_dtype": "float16", "include_prompt": False, "truncation_side": "left",
}  # fmt: skip


def test_every_part_but_the_name_of_the_model_is_compared():
    assert {*CHANGES, "model", "inputs"} == {field for field in Manifest.__dataclass_fields__}


def test_a_manifest_of_an_earlier_release_is_read_and_its_shards_are_kept(tmp_path):
    fill(tmp_path)
    raw = json.loads((tmp_path / "manifest.json").read_text())
    assert not {"truncation_side", "include_prompt"} & raw.keys()
    assert open_vectors(tmp_path).manifest == MANIFEST
    assert begin(tmp_path) == []
    assert "truncation_side" not in MANIFEST.parts


@pytest.mark.parametrize("name", CHANGES)
def test_vectors_made_in_another_way_are_refused_and_left_alone(tmp_path, name):
    fill(tmp_path, shards=(0,))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = replace(MANIFEST, **{name: CHANGES[name]})
    said = f"--overwrite starts anew:\n  - {name}: {getattr(MANIFEST, name)!r} there, {CHANGES[name]!r} now"
    with pytest.raises(UserError) as caught:
        begin(tmp_path, changed)
    assert str(caught.value).endswith(said)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert changed.fingerprint != MANIFEST.fingerprint


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((INPUTS[0],), r"input 2: 'b.txt \(4 texts, sha256 b+\)' there, None now"),
        ((*INPUTS, INPUTS[0]), r"input 3: None there, 'a.jsonl"),
        ((INPUTS[1], INPUTS[0]), r"input 1: 'a.jsonl .* there, 'b.txt .*\n  - input 2"),
        ((INPUTS[0], replace(INPUTS[1], sha256="c")), r"input 2: 'b.txt .*sha256 bb.*'b.txt .*sha256 c\)' now"),
    ],
    ids=["fewer", "more", "order", "content"],
)
def test_other_inputs_are_refused_by_name(tmp_path, inputs, message):
    fill(tmp_path)
    with pytest.raises(UserError, match=message):
        begin(tmp_path, replace(MANIFEST, inputs=inputs))


def test_the_same_weights_under_another_name_go_on(tmp_path):
    fill(tmp_path, shards=(0,))
    assert begin(tmp_path, replace(MANIFEST, model="moved/base")) == [1, 2]


def test_overwrite_makes_shards_again_that_would_be_the_same(tmp_path):
    assert begin(fill(tmp_path), overwrite=True) == [0, 1, 2]
    assert names(tmp_path) == ["manifest.json"]


def test_overwrite_keeps_nothing_of_ours_and_everything_else(tmp_path):
    fill(tmp_path)
    for name in ("notes.txt", "vectors-00000.npy.bak", "ids.json", "vectors-7.npy"):
        (tmp_path / name).write_text("mine")
    assert begin(tmp_path, replace(MANIFEST, shard_size=8), overwrite=True) == [0, 1]
    assert names(tmp_path) == ["ids.json", "manifest.json", "notes.txt", "vectors-00000.npy.bak", "vectors-7.npy"]
    assert read_manifest(tmp_path).shard_size == 8


# ---- ranks ----------------------------------------------------------------------------------------------------------


def test_ranks_take_turns_and_clean_up_behind_themselves_only(tmp_path):
    for name in (".vectors-00000.npy.partial", ".vectors-00001.npy.partial", ".ids-00003.json.partial"):
        (tmp_path / name).write_text("torn")
    assert begin(tmp_path, rank=1, ranks=2) == [1]
    assert names(tmp_path) == [".vectors-00000.npy.partial"]  # rank 0 may be writing it; the manifest is for rank 0
    assert begin(tmp_path, rank=0, ranks=2) == [0, 2]
    assert names(tmp_path) == ["manifest.json"]
    assert [begin(tmp_path, rank=rank, ranks=5) for rank in range(5)] == [[0], [1], [2], [], []]


def test_a_shard_that_one_rank_left_when_another_started_anew_is_not_taken_for_new(tmp_path):
    """Killed between rank 0's start with --overwrite and rank 1's."""
    fill(tmp_path)
    new = replace(MANIFEST, prompt="问")
    begin(tmp_path, new, rank=0, ranks=2, overwrite=True)
    assert "vectors-00001.npy" in names(tmp_path)
    assert missing_shards(tmp_path, new) == [0, 1, 2]
    assert begin(tmp_path, new) == [0, 1, 2]
    assert names(tmp_path) == ["manifest.json"]


def test_a_second_process_with_the_same_rank_is_refused(tmp_path):
    folder = tmp_path / "out"
    with only_writer(folder, 0):
        with (
            pytest.raises(UserError, match=r"another process is writing here as rank 0; .*torchrun"),
            only_writer(folder, 0),
        ):
            pytest.fail("two writers")
        with only_writer(folder, 1):
            pass
    assert list(folder.iterdir()) == []
    with only_writer(folder, 0):
        pass
