"""Bases from a hub: what a mirror serves is what its folder gives, and a hub that fails is one message and exit code 2.

The hub is an HTTP server on loopback; huggingface_hub and transformers are the real ones.
"""

import shutil

import pytest

from tests.bases.hub_commands import LOAD, begin, check_message, encode, results, variables, vectors
from tests.hub_server import Hub
from tests.processes import finish, forked, start

SECRET = "hf_thisIsASecretToken"


@pytest.fixture(scope="module")
def online(base, hub, tmp_path_factory):
    """What a machine with an empty cache makes of the hub's models; folder, and results."""
    folder = tmp_path_factory.mktemp("online")
    weightless = shutil.copytree(base, folder / "weightless")
    (weightless / "model.safetensors").unlink()
    hub.add("t/weightless", weightless)
    hub.add("t/gated", base, token=SECRET)
    hub.add("t/cut", base, cut=1)
    hub.add("t/short", base, short=True)
    hub.add("t/half", base, status=403, only="modules.json")
    cases = [
        ["folder", encode(base, "of-folder"), {}],
        ["good", encode("t/good", "of-good"), {}],
        ["cut", encode("t/cut", "of-cut"), {}],
        ["missing", encode("t/no-such-model", "x"), {}],
        ["mistyped", encode("BAAI/bge-larg-zh-v1.5", "x"), {}],
        ["with a token", encode("t/no-such-model", "x"), {"HF_TOKEN": SECRET}],
        ["gated", encode("t/gated", "x"), {}],
        ["wrong token", encode("t/gated", "x"), {"HF_TOKEN": "hf_another"}],
        ["let in", encode("t/gated", "of-gated"), {"HF_TOKEN": SECRET}],
        ["short", encode("t/short", "x"), {}],
        ["half", encode("t/half", "x"), {}],
        ["weightless", encode("t/weightless", "x"), {}],
        ["reranker", ["score", "r.jsonl", "--model", "t/gated", "--output", "x"], {}],
    ]
    (folder / "r.jsonl").write_text('{"query": "a", "pos": ["b"], "neg": ["c"], "task": "qa"}\n', "utf-8")
    found = results(begin(cases, folder, variables(folder, hub)))
    assert not (folder / "x").exists()
    return folder, found


@pytest.fixture(scope="module")
def mended(online, hub):
    """The same machine when the hub has got well, and then without a hub."""
    folder, _ = online
    hub.faults["t/short"].short, hub.faults["t/half"].status = False, None
    cases = [[name, encode(f"t/{name}", f"again-{name}"), {}] for name in ("short", "half")]
    return results(begin(cases, folder, variables(folder, hub)))


@pytest.mark.parametrize("name", ["good", "cut", "gated"])
def test_a_mirror_serves_what_the_folder_gives(online, name):
    folder, found = online
    assert found["let in" if name == "gated" else name][0] == found["folder"][0] == 0, found
    assert vectors(folder, f"of-{name}") == vectors(folder, "of-folder") != b""


def test_each_file_is_fetched_once(online, hub, base):
    assert hub.sent["t/good/model.safetensors"] == (base / "model.safetensors").stat().st_size
    assert hub.sent["t/good/tokenizer.json"] == (base / "tokenizer.json").stat().st_size


def test_a_connection_that_breaks_is_taken_up_where_it_broke(online, hub, base):
    size = (base / "model.safetensors").stat().st_size
    assert hub.sent["t/cut/model.safetensors"] <= size + size // 2


def test_a_model_that_the_hub_does_not_know_is_said_with_the_nearest_name(online, hub):
    found = online[1]
    check_message(found["missing"], "t/no-such-model", f"{hub.address} has no model of that name", "(401)", "HF_TOKEN")
    check_message(found["with a token"], "t/no-such-model", "(404)", "modelscope:t/no-such-model")
    check_message(found["mistyped"], "BAAI/bge-larg-zh-v1.5", "did you mean 'BAAI/bge-large-zh-v1.5'?")


def test_a_gated_model_is_said_with_where_to_accept_its_terms(online, hub):
    found = online[1]
    for label in ("gated", "wrong token", "reranker"):
        check_message(found[label], "t/gated", "accepted its terms (401)", f"{hub.address}/t/gated", "HF_TOKEN")


def test_half_a_file_is_not_taken_for_the_file(online, hub):
    check_message(online[1]["short"], "t/short", f"the download from the hub {hub.address} ended early", "try again")


def test_a_base_whose_pooling_cannot_be_had_is_not_pooled_in_another_way(online, hub):
    check_message(online[1]["half"], "t/half", "(403)", "HF_TOKEN")


def test_a_model_without_weights_is_said(online):
    check_message(online[1]["weightless"], "t/weightless", "model.safetensors", "another")


@pytest.mark.parametrize("name", ["short", "half"])
def test_the_next_run_goes_through_and_gives_the_same_model(online, mended, name):
    folder = online[0]
    assert mended[name][0] == 0, mended
    assert vectors(folder, f"again-{name}") == vectors(folder, "of-folder")


def test_a_token_goes_to_the_hub_and_nowhere_else(online, hub):
    folder, found = online
    assert {host for host, token in hub.tokens if token == SECRET} == {"127.0.0.1"}  # weights lie at another host
    assert not any(SECRET in shown for _, shown in found.values())
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_cache_serves_without_a_hub_and_what_it_lacks_is_said(online, tmp_path):
    folder, _ = online
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    cases = [["good", encode("t/good", "of-good"), {}], ["empty", encode("t/never", "x"), {}]]
    found = results(begin(cases, tmp_path, variables(tmp_path, Hub(address="http://127.0.0.1:9"), **env)))
    assert found["good"][0] == 0, found
    assert vectors(tmp_path, "of-good") == vectors(folder, "of-folder")
    cache = f"not all of it is in the cache {folder / 'hf' / 'hub'}"
    check_message(found["empty"], "t/never", "HF_HUB_OFFLINE is set", cache, "unset HF_HUB_OFFLINE")


@pytest.mark.full
def test_a_hub_that_is_down_slow_or_gone_is_said(base, hub, online, tmp_path):
    """huggingface_hub tries again for a while: each in a process of its own, all at once."""
    hub.add("t/down", base, status=503)
    hub.add("t/slow", base, slow=2.5)
    hub.add("t/stalls", base, stalls=2.5)
    hub.add("t/breaks", base, cut=99)
    dead = {"HF_ENDPOINT": "http://user:password@127.0.0.1:9"}
    expected = {
        "t/down": ("answered 503 Service Unavailable", "try again"),
        "t/slow": ("did not answer in time", "HF_HUB_DOWNLOAD_TIMEOUT"),
        "t/stalls": ("did not answer in time", "HF_HUB_DOWNLOAD_TIMEOUT"),
        "t/breaks": (f"the download from the hub {hub.address} ended early", "try again"),
        "t/dead": ("the hub http://127.0.0.1:9 cannot be reached", "HF_ENDPOINT=", "hf download t/dead"),
    }
    started = {}
    for name in expected:
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        env = variables(folder, hub, **(dead if name == "t/dead" else {}))
        started[name] = begin([[name, encode(name, "x"), {}]], folder, env)
    filled = {**dead, "HF_HOME": str(online[0] / "hf")}
    cached = begin([["good", encode("t/good", "of-good"), {}]], tmp_path, variables(tmp_path, hub, **filled))
    for name, parts in expected.items():
        found = results(started[name])
        check_message(found[name], name, *parts)
        assert "password" not in found[name][1].partition("error: ")[2]
    assert results(cached)["good"][0] == 0
    assert vectors(tmp_path, "of-good") == vectors(online[0], "of-folder")


@pytest.mark.full
def test_ranks_fetch_a_model_once(base, hub, tmp_path):
    hub.add("t/ranks", base)
    finish(start([*forked(2), "-c", LOAD, "t/ranks"], tmp_path, env=variables(tmp_path, hub)))
    assert hub.sent["t/ranks/model.safetensors"] == (base / "model.safetensors").stat().st_size
