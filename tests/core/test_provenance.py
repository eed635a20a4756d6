"""A manifest says where a result comes from, and no secret."""

import pytest

from zh_embedder.core.provenance import command, manifest


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/x/run_dense.py", "--token", "hf_abc", "--seed", "1"], "run_dense.py --token '***' --seed 1"),
        (["run_dense.py", "--hub_token=hf_abc"], "run_dense.py '--hub_token=***'"),
        (["run_dense.py", "--hub-token", "hf_abc"], "run_dense.py --hub-token '***'"),
        (["run_dense.py", "--key_max_length", "64"], "run_dense.py --key_max_length 64"),
        (["run_dense.py", "--train_data", "a b.jsonl"], "run_dense.py --train_data 'a b.jsonl'"),
    ],
)
def test_the_command_is_what_was_typed_without_its_secrets(argv, expected):
    assert command(argv) == expected


def test_packages_data_and_seed_are_named():
    found = manifest(data={"qa:train.jsonl": "0123"}, seed=7)
    assert found["data"] == {"qa:train.jsonl": "0123"}
    assert found["seed"] == 7
    assert {"torch", "transformers", "zh-embedder"} <= set(found["packages"])
    assert "faiss-gpu" not in found["packages"]
