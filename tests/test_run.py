"""run_dense.py as users type it: published commands run unchanged; broken input gets its message and exit code 2."""

import json
import re
import shlex

import pytest
import yaml

from tests.processes import ALONE, ROOT, forked, run, run_each

pytestmark = pytest.mark.slow
SECONDS = 50
BROKEN = ROOT / "tests" / "broken"
CASES = yaml.safe_load((BROKEN / "cases.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory, tiny_bert):
    """What each broken case printed, with its exit code and the files it left."""
    folder, commands = tmp_path_factory.mktemp("broken"), []
    for number, case in enumerate(CASES):
        flags = ["--output_dir", "out", "--query_encoder", tiny_bert, "--train_data", BROKEN / case["data"]]
        more = shlex.split(case["flags"].replace("{broken}", str(BROKEN)).replace("{root}", str(ROOT)))
        (folder / str(number)).mkdir()
        commands.append((folder / str(number), [*flags, *more]))
    found = []
    for (place, _), (printed, code) in zip(commands, run_each(commands), strict=True):
        found.append((printed, code, [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()]))
    return found


def test_a_process_started_by_hand_says_the_same(answers, tiny_bert, tmp_path):
    case, flags = CASES[0], ["--output_dir", "out", "--query_encoder", tiny_bert]
    more = ("--train_data", BROKEN / case["data"], *shlex.split(case["flags"]))
    printed = run(*flags, *more, cwd=tmp_path, launcher=ALONE, expect=2)
    assert without_times(printed) == without_times(answers[0][0])


def without_times(printed):
    return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", printed)


def test_every_broken_file_has_its_case():
    named = re.findall(r"{broken}/(\S+)", " ".join(case["flags"] for case in CASES))
    nowhere = {"god.jsonl"}  # a typing mistake
    used = {case["data"] for case in CASES} - nowhere | set(named)
    assert used == {path.name for path in BROKEN.iterdir()} - {"cases.yaml"}
    assert len(CASES) == 39


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda n: f"{CASES[n]['data']} {CASES[n]['flags'][:40]}".strip()
)
def test_broken_input_gets_its_message_and_nothing_is_written(number, answers):
    printed, code, left = answers[number]
    assert re.search(CASES[number]["expect"], printed), printed[-2000:]
    assert code == 2
    assert "Traceback" not in printed
    # A file whose every line is right, and its hash, may stand in the cache, whatever else was wrong; nothing else.
    assert [path for path in left if not re.fullmatch(r"cache/(records/\w+\.arrow|hashes/\w+)", path)] == []


@pytest.mark.real
def test_the_published_command_of_llm_embedder_runs_on_two_ranks(real_data, tiny_bert, tmp_path):
    """Verbatim but for the paths; the file is a real data set, shortened."""
    lines = (real_data / "tool" / "acebench" / "train.jsonl").read_text("utf-8").splitlines()[:96]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    command = f"""
      --output_dir data/outputs/icl
      --train_data llm-embedder:train.jsonl --save_steps 6000
      --query_encoder {tiny_bert} --version zh_llm_embedder
      --inbatch_same_dataset epoch --learning_rate 2e-5 --num_train_epochs 2 --train_group_size 15
      --per_device_train_batch_size 16 --cos_temperature 0.02 --dtype fp32 --report_to tensorboard
      --data_root data --max_unknown 1"""
    printed = run(*shlex.split(command), cwd=tmp_path, launcher=forked(2))
    assert "tool:train.jsonl" in printed
    assert "steps 1 to 6: each one dataset, the same on all 2 ranks (checked): tool:train.jsonl x6" in printed
    out = tmp_path / "data" / "outputs" / "icl"
    assert (out / "encoder" / "model.safetensors").is_file()
    assert list((out / "runs").rglob("events.out.tfevents.*"))
    assert json.loads((out / "args.json").read_text("utf-8"))["train_group_size"] == 15


@pytest.mark.real
def test_the_published_command_of_flagembedding_runs(real_data, tiny_bert, tmp_path):
    """Verbatim but for the paths, on a file of its style: no task, pos_scores, neg_scores and a prompt."""
    rows = [
        json.loads(line) for line in (real_data / "tool" / "acebench" / "train.jsonl").read_text("utf-8").splitlines()
    ]
    with (tmp_path / "training.json").open("w", encoding="utf-8") as stream:
        for row in rows[:12]:
            scores = {"pos_scores": [1.0] * len(row["pos"]), "neg_scores": [0.2] * len(row["neg"])}
            kept = {"query": row["query"], "pos": row["pos"], "neg": row["neg"], **scores, "prompt": "查询："}
            stream.write(json.dumps(kept, ensure_ascii=False) + "\n")
    command = f"""
      --model_name_or_path {tiny_bert} --cache_dir cache/model --train_data training.json --cache_path cache/data
      --train_group_size 8 --query_max_len 512 --passage_max_len 512 --pad_to_multiple_of 8
      --query_instruction_for_retrieval '为这个句子生成表示以用于检索相关文章：' --query_instruction_format '{{}}{{}}'
      --knowledge_distillation False --output_dir out --overwrite_output_dir --learning_rate 1e-5 --fp16
      --num_train_epochs 2 --per_device_train_batch_size 2 --dataloader_drop_last True --warmup_ratio 0.1
      --gradient_checkpointing --deepspeed {ROOT / "configs/deepspeed/stage0.json"} --logging_steps 1
      --save_steps 1000 --negatives_cross_device --temperature 0.02 --sentence_pooling_method cls
      --normalize_embeddings True --kd_loss_type kl_div --report_to none --max_unknown 1"""
    printed = run(*shlex.split(command), cwd=tmp_path, launcher=forked(1))
    assert "1 info_nce" in printed  # scores are there and not used: --knowledge_distillation False
    assert "flags: --model_name_or_path is --query_encoder" in printed
    assert "engine: DeepSpeedEngine" in printed
    prompts = json.loads((tmp_path / "out/encoder/config_sentence_transformers.json").read_text("utf-8"))["prompts"]
    assert prompts["query"] == "为这个句子生成表示以用于检索相关文章："
    assert prompts["document"] == ""
