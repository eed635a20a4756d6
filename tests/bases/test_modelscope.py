"""Bases from ModelScope: the folder that its package downloads, whole or refused; and what is said where it fails.

The hub is an HTTP server on loopback, the package is the real one. It is no dependency: tests that need it are skipped
where it is not installed (`pip install '.[modelscope]'`).
"""

import json
import sys
from importlib.util import find_spec

import pytest

from tests.bases.hub_commands import LOAD, begin, check_message, encode, results, variables, vectors
from tests.hub_server import Hub
from tests.processes import finish, forked, start
from zh_embedder.bases.modelscope import ModelScopeName, local_name
from zh_embedder.bases.names import load_config, load_tokenizer
from zh_embedder.core.errors import UserError
from zh_embedder.models.cross_encoder import CrossEncoder
from zh_embedder.models.encoder import load_encoder

SECRET = "ms-thisIsASecretToken"
REAL = pytest.mark.skipif(find_spec("modelscope") is None, reason="the package modelscope is not installed here")


@pytest.mark.parametrize(
    "typed", ["modelscope:", "modelscope:bge", "modelscope:a/b/c", "modelscope:a/b@", "modelscope:/a"]
)
def test_a_name_of_another_shape_is_refused(typed):
    with pytest.raises(UserError, match=r"--f: got 'modelscope:.*', expected modelscope:OWNER/NAME"):
        local_name(typed, flag="--f")


def test_a_name_has_a_revision_or_none():
    assert ModelScopeName.read("modelscope:BAAI/bge-m3", flag="--f").revision is None
    named = ModelScopeName.read("modelscope:BAAI/bge-m3@v1.0", flag="--f")
    assert (named.name, named.revision) == ("BAAI/bge-m3", "v1.0")


def test_other_names_stay_as_they_are(workdir):
    (workdir / "modelscope:a" / "b").mkdir(parents=True)
    for name in ("BAAI/bge-m3", "nano-zh-static", "modelscope", "./x", "modelscope:a/b"):  # the last is a folder here
        assert local_name(name, flag="--f") == name
    assert local_name(workdir, flag="--f") == workdir  # a path, from Python


@pytest.mark.parametrize("load", [load_encoder, load_config, load_tokenizer, CrossEncoder.load])
def test_without_the_package_the_message_says_how_to_get_it(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(
        UserError, match=r"^--f: modelscope:a/b: needs the package modelscope.*: pip install modelscope$"
    ):
        load("modelscope:a/b", flag="--f")


def of_modelscope(folder, hub, **more) -> dict[str, str]:
    """A user's machine with an empty cache and a hub that answers at ModelScope's paths alone."""
    once = {"MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1", "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1"}
    own = {"MODELSCOPE_CACHE": str(folder / "ms"), "MODELSCOPE_HOME": str(folder / "home"), "HOME": str(folder)}
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_DOWNLOAD_TIMEOUT": "1", "MODELSCOPE_API_TIMEOUT": "1"}
    return variables(folder, hub) | once | own | dead | {"MODELSCOPE_DOMAIN": hub.address} | more


@pytest.fixture(scope="module")
def online(base, hub, tmp_path_factory):
    """What a machine with an empty cache makes of the hub's models; folder, and results."""
    folder = tmp_path_factory.mktemp("online")
    hub.add("t/gated", base, token=SECRET)
    hub.add("t/breaks", base, cut=99)
    hub.add("t/part", base, status=503, only="modules.json")
    hub.add("t/down", base, status=503)
    hub.add("t/slow", base, slow=2.5)
    cases = [
        ["folder", encode(base, "of-folder"), {}],
        ["good", encode("modelscope:t/good", "of-good"), {}],
        ["revision", encode("modelscope:t/good@v2", "of-revision"), {}],
        ["again", encode("modelscope:t/good", "of-again"), {}],
        ["gated", encode("modelscope:t/gated", "x"), {}],
        ["let in", encode("modelscope:t/gated", "of-gated"), {"MODELSCOPE_API_TOKEN": SECRET}],
        ["missing", encode("modelscope:BAAI/bge-larg-zh-v1.5", "x"), {}],
        *([name, encode(f"modelscope:t/{name}", "x"), {}] for name in ("breaks", "part", "down", "slow")),
    ]
    found = results(begin(cases, folder, of_modelscope(folder, hub)))
    assert not (folder / "x").exists()
    return folder, found


@REAL
@pytest.mark.full
@pytest.mark.parametrize("name", ["good", "revision", "again", "gated"])
def test_modelscope_serves_what_the_folder_gives(online, name):
    folder, found = online
    assert found["let in" if name == "gated" else name][0] == found["folder"][0] == 0, found
    assert vectors(folder, f"of-{name}") == vectors(folder, "of-folder") != b""


@REAL
@pytest.mark.full
def test_what_fails_at_modelscope_is_said_with_what_to_do(online, hub):
    found, site = online[1], f"the hub {hub.address}"
    check_message(found["gated"], "modelscope:t/gated", f"{site} does not let", "(401)", "MODELSCOPE_API_TOKEN")
    check_message(
        found["missing"], "modelscope:BAAI/bge-larg-zh-v1.5", "(404)", "did you mean 'BAAI/bge-large-zh-v1.5'?"
    )
    check_message(found["breaks"], "modelscope:t/breaks", f"download from {site} ended early", "try again")
    check_message(found["down"], "modelscope:t/down", f"{site} answered 503", "try again")
    check_message(found["part"], "modelscope:t/part", f"{site} answered 503", "a part is in")
    check_message(found["slow"], "modelscope:t/slow", f"{site} did not answer in time", "MODELSCOPE_API_TIMEOUT")


@REAL
@pytest.mark.full
def test_a_token_of_modelscope_is_in_no_output_and_in_no_file_of_ours(online):
    folder, found = online
    assert not any(SECRET in shown for _, shown in found.values())
    ours = [path for name in ("cache", "of-gated") for path in (folder / name).rglob("*") if path.is_file()]
    assert ours and not [path for path in ours if SECRET.encode() in path.read_bytes()]


@REAL
@pytest.mark.full
def test_a_whole_copy_serves_without_the_hub_and_half_a_one_is_refused(online, hub):
    folder, _ = online
    gone = Hub(address="http://127.0.0.1:9")
    names = ("good", "breaks", "part", "never")
    cases = [[name, encode(f"modelscope:t/{name}", f"off-{name}"), {}] for name in names]
    offline = results(begin(cases, folder, of_modelscope(folder, hub, HF_HUB_OFFLINE="1")))
    cases = [[name, encode(f"modelscope:t/{name}", f"gone-{name}"), {}] for name in ("good", "part")]
    without = results(begin(cases, folder, of_modelscope(folder, gone)))
    for found, out in ((offline, "off-good"), (without, "gone-good")):
        assert found["good"][0] == 0, found
        assert vectors(folder, out) == vectors(folder, "of-folder")
    for name in ("breaks", "part"):
        check_message(offline[name], f"modelscope:t/{name}", "HF_HUB_OFFLINE is set", "a part is in")
    check_message(without["part"], "modelscope:t/part", "cannot be reached", "a part is in")
    check_message(offline["never"], "modelscope:t/never", f"not all of it is in the cache {folder / 'ms'}")
    assert "the copy in the cache is used" in without["good"][1]
    hub.faults["t/breaks"].cut, hub.faults["t/part"].status = 0, None
    cases = [[name, encode(f"modelscope:t/{name}", f"mended-{name}"), {}] for name in ("breaks", "part")]
    mended = results(begin(cases, folder, of_modelscope(folder, hub)))
    for name in ("breaks", "part"):
        assert mended[name][0] == 0, mended
        assert vectors(folder, f"mended-{name}") == vectors(folder, "of-folder")


@REAL
@pytest.mark.full
def test_ranks_fetch_a_model_of_modelscope_once(base, hub, tmp_path):
    hub.add("t/ranks", base)
    env = of_modelscope(tmp_path, hub)
    finish(start([*forked(2), "-c", LOAD, "modelscope:t/ranks"], tmp_path, env=env))
    assert hub.sent["t/ranks/model.safetensors"] == (base / "model.safetensors").stat().st_size
    states = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "modelscope").glob("*.json")]
    assert [one["whole"] for one in states] == [True]
