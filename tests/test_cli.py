"""The command says what it can do quickly, does it, and answers a mistake with one line and exit code 2."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.faults.commands import WRITERS
from tests.processes import forked, start
from zh_embedder.cli import COMMANDS, OWN_PARSER, TABLE, build_parser, main
from zh_embedder.config.instructions import read_version
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.measure import METRICS, evaluate
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.models.encoder import Encoder, load_encoder

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "examples" / "demo" / "test"
PROGRAM = str(Path(sys.executable).parent / "zh-embedder")


def run(capsys, *words) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


# ---- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--help",), ("-h",), ()], ids=str)
def test_the_help_lists_every_command_by_group_and_an_example(capsys, words):
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    headings = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert headings == ["train", "measure", "use", "data", "look up"] == list(TABLE)
    for title, group in TABLE.items():
        block = out.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^    (\S+) ", block, re.MULTILINE) == list(group)
    assert "example: zh-embedder train --output_dir out" in out


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_of_the_package_is_shown(capsys, word):
    code, out, err = run(capsys, word)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"zh-embedder (\d+\.\d+\S*|\(source tree, not installed\))\n", out)


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, word):
    code, out, err = run(capsys, word, "--help")
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    assert "example:" in shown
    assert f"usage: zh-embedder {word} " in shown
    if word not in OWN_PARSER:
        assert COMMANDS[word].text in shown
        assert f"example: zh-embedder {word} {COMMANDS[word].example}" in shown


@pytest.mark.parametrize("word", sorted(COMMANDS.keys() - {*OWN_PARSER}))
def test_every_example_parses(word):
    """An example that is no longer right would be worse than none."""
    build_parser(word).parse_args(COMMANDS[word].example.split())


# ---- doors: `python -m data_tools.doctor` and `zh-embedder doctor` --------------------------------------------------

DOORS = {
    **{word: command.module for word, command in COMMANDS.items() if command.module.startswith("data_tools.")},
    "vocabulary": "zh_embedder.vocabulary",
    "new-base": "zh_embedder.new_base",
}


def test_every_tool_is_a_word():
    tools = {path.stem for path in (ROOT / "data_tools").glob("*.py")} - {"__init__"}
    assert {f"data_tools.{tool}" for tool in tools} <= set(DOORS.values())


@pytest.mark.parametrize("word", DOORS)
def test_word_and_door_reach_the_same_function(capsys, monkeypatch, word):
    asked = []
    module = import_module(COMMANDS[word].module)
    monkeypatch.setattr(module, "run", lambda args: asked.append(vars(args)) or 1)
    words = COMMANDS[word].example.split()
    assert run(capsys, word, *words)[0] == 1
    assert import_module(DOORS[word]).main(words) == 1
    assert asked[0] == asked[1]


@pytest.mark.parametrize("word", sorted(set(COMMANDS) - set(OWN_PARSER)))
def test_a_command_that_writes_names_its_places(word):
    """They are checked before it runs; and kills and full disks are tried on it."""
    flags = {option for action in build_parser(word)._actions for option in (*action.option_strings, action.dest)}
    writes = flags & {"--output", "--output_dir", "--output_corpus", "--json", "--report", "--fix", "out"}
    assert hasattr(import_module(COMMANDS[word].module), "places") == bool(writes)
    assert (word in WRITERS) == (bool(writes) and word != "mteb")  # whose data sets are on a hub


@pytest.mark.parametrize("word", DOORS)
def test_the_help_of_a_door_shows_the_door_that_was_typed(capsys, word):
    with pytest.raises(SystemExit):
        import_module(DOORS[word]).main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    typed = f"python -m {DOORS[word]}"
    assert f"usage: {typed} " in shown
    assert f"example: {typed} {COMMANDS[word].example}" in shown
    assert "zh-embedder " + word not in shown


@pytest.mark.parametrize("door", DOORS.values())
def test_a_door_can_be_started(door):
    main = Path(import_module(door).__file__).read_text("utf-8").partition('if __name__ == "__main__":\n')[2]
    assert main == "    sys.exit(main())\n"


def test_a_tool_that_is_not_installed_is_said_so(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "data_tools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)])
    code, out, err = run(capsys, "doctor", "--help")
    assert (code, out) == (2, "")
    assert err.startswith("error: zh-embedder doctor: the package data_tools is not installed")


def test_an_exit_code_is_the_commands_own_and_2_for_a_mistake(capsys, monkeypatch):
    def mistaken(_):
        raise UserError("a.jsonl:3: query: got 1, expected a string")

    module = import_module("data_tools.doctor")
    for work, code, said in (
        (mistaken, 2, "error: a.jsonl:3: query: got 1, expected a string\n"),
        (lambda _: 1, 1, ""),
        (lambda _: None, 0, ""),
    ):
        monkeypatch.setattr(module, "run", work)
        assert run(capsys, "doctor", "a.jsonl") == (code, "", said)


def test_a_command_on_the_terminal_is_the_one_that_is_tested():
    done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: zh-embedder" in done.stdout


def test_another_spelling_of_a_flag_works_and_is_logged_once(capsys, tmp_path):
    code, _, err = run(capsys, "encode", tmp_path / "none", tmp_path / "none.txt", "--output", tmp_path / "out")
    assert code == 2
    assert err.count("--output is --output_dir") == 1


HEAVY = ("torch", "transformers", "datasets", "sentence_transformers", "accelerate", "ir_measures")
SAY_LOADED = """
import sys
from zh_embedder.cli import main
codes = []
for words in {lines}:
    try:
        codes.append(main(words))
    except SystemExit as stopped:
        codes.append(stopped.code)
sys.stderr.write(f"\\n{{codes}} {{sorted(set({heavy}) & set(sys.modules))}}")
"""


@pytest.mark.parametrize(
    "lines",
    [[["--help"], [], ["evaluat"]], [["versions"], ["bases"], *([word, "--help"] for word in ("versions", *DOORS))]],
    ids=["the list", "commands"],
)
def test_help_and_versions_load_nothing_heavy(lines):
    code = SAY_LOADED.format(lines=lines, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == f"{[2 if words == ['evaluat'] else 0 for words in lines]} []"


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluat"], "error: COMMAND: unknown name 'evaluat'; did you mean 'evaluate'? Known: bases, convert, doctor"),
        (["new_base"], "did you mean 'new-base'?"),
        (["evaluate"], "error: --data: is missing; see `zh-embedder evaluate --help`"),
        (["encode", "encoder"], "error: INPUT, --output_dir: are missing; see"),
        (
            ["encode", "./nowhere", "DEMO", "--output", "out"],
            "error: MODEL: got './nowhere', expected a folder",
        ),
        (["encode", "m", "corpus.jsonl", "--output", "out"], "error: INPUT: no such file: corpus.jsonl"),
        (["export", "encoder"], "error: out: is missing; see"),
        (["versions", "--nmae"], "error: --nmae: unknown flag; see --help"),
        (["evaluate", "--reprot", "r"], "error: --reprot: unknown flag; did you mean '--report'?"),
        (
            ["evaluate", "m", "--data", "d", "--kind", "retreival"],
            "error: --kind: unknown name 'retreival'; did you mean 'retrieval'? Known: ",
        ),
        (["evaluate", "m", "--data", "d", "--k1", "many"], "error: --k1: got 'many', expected a number"),
        (["evaluate", "m", "--data"], "error: --data: got none, expected at least one value"),
        (["versions", "a", "b"], "error: unrecognized arguments: b; see `zh-embedder versions --help`"),
        (["train", "--report", "r.html"], "error: --report: every run that is measured writes OUTPUT_DIR/report.html"),
        (
            ["versions", "zh_llm_embeder"],
            "error: --version: unknown name 'zh_llm_embeder'; did you mean 'zh_llm_embedder'?",
        ),
        (["versions", "missing.yaml"], "error: --version: no such file: missing.yaml"),
        (["export", "./nowhere", "out"], "error: ENCODER: got './nowhere', expected a folder that is there"),
        (["evaluate", "m", "--data", "./nowhere"], "error: --data: no such file or folder: nowhere"),
        (["evaluate", "./nowhere", "--data", "DEMO"], "error: MODEL: got './nowhere', expected a folder"),
        (
            ["evaluate", "m", "--data", "DEMO", "--metrics", "ndgc@10"],
            "error: --metrics: got 'ndgc@10', expected one of ndcg",
        ),
        (["train", "--output_dir", "out"], "error: --train_data: is missing"),
        (["pretrain", "--output_dir", "out"], "error: --corpus: is missing"),
        (["train", "--outptu_dir", "out"], "error: --outptu_dir: unknown flag; did you mean '--output_dir'?"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *(DEMO / "qa" if word == "DEMO" else word for word in words))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_flags_may_be_abbreviated_and_words_after_two_dashes_are_no_flags(capsys):
    assert run(capsys, "versions", "--instructions", ".", "none")[0] == 0
    code, _, err = run(capsys, "versions", "--", "--nmae")
    assert (code, err.startswith("error: --version: unknown name '--nmae'")) == (2, True)


def test_a_wrong_metric_is_refused_before_anything_is_encoded(capsys, tiny_bert, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda *_args, **_options: pytest.fail("encoded"))
    code, _, err = run(capsys, "evaluate", tiny_bert, "--data", DEMO / "qa", "--metrics", "ndcg@10", "recall")
    assert code == 2
    assert "--metrics: got 'recall'" in err


# ---- versions -------------------------------------------------------------------------------------------------------


def test_versions_are_listed_with_their_tasks_from_anywhere(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "versions")
    assert (code, err) == (0, "")
    found = {line.split()[0]: line for line in out.splitlines()}
    assert found.keys() == {"bge_zh", "e5", "e5_zh", "none", "qwen3", "zh_llm_embedder"}
    assert ", ".join(sorted(read_version("zh_llm_embedder").tasks)) in found["zh_llm_embedder"]
    assert {"chat", "icl", "qa"} < read_version("zh_llm_embedder").tasks.keys()
    assert "every other task" in found["bge_zh"]


def test_a_version_is_shown_with_its_instructions(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text('tasks:\n  law:\n    query: "问：\\n"\n    key: ""\n', "utf-8")
    code, out, _ = run(capsys, "versions", "mine.yaml")
    assert code == 0
    assert out.splitlines() == ["mine (mine.yaml)", "  law", r"    query: '问：\n'", "    key:   ''"]
    (tmp_path / "own").mkdir()
    (tmp_path / "mine.yaml").rename(tmp_path / "own" / "mine.yaml")
    _, out, _ = run(capsys, "versions", "--instructions_dir", "own")
    assert "mine                 law  (own/mine.yaml)" in out.splitlines()


# ---- evaluate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tiny_bert, tmp_path, monkeypatch) -> tuple[str, str]:
    """A base and a run, named from the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(tiny_bert)
    tasks = {task: (f"为{task}检索：", "资料：") for task in ("qa", "tool")}
    load_encoder(str(tiny_bert), pooling="cls", changes={"instructions": tasks}).save(tmp_path / "run" / "encoder")
    return "base", "run"


def measured(model: str, folder: Path, metrics=METRICS) -> dict[str, float]:
    return evaluate(Encoder.from_pretrained(model, device="cpu"), read_retrieval_set(folder), metrics=metrics)


def test_evaluate_writes_what_the_library_measures(capsys, models, tmp_path):
    code, out, err = run(
        capsys,
        "evaluate",
        *models,
        "--data",
        DEMO / "qa",
        DEMO / "tool",
        "--max_unknown",
        1,
        "--json",
        tmp_path / "new" / "scores.json",
    )
    assert (code, "Traceback" in err) == (0, False)
    rows = json.loads((tmp_path / "new" / "scores.json").read_text("utf-8"))
    expected = [
        {"model": model, "data": f"demo/{task}", "metric": metric, "value": pytest.approx(value)}
        for model in models
        for task in ("qa", "tool")
        for metric, value in measured(model, DEMO / task).items()
    ]
    assert rows == expected
    note, told, empty, *lines = out.splitlines()
    assert note.startswith("note: run uses instructions for qa, tool, base uses none")
    assert told.startswith("note: run: ")
    assert told.endswith(" (its own)")
    assert not empty
    table = [line.split() for line in lines]
    assert table[0] == ["model", "data", *METRICS, "ndcg@10", "against", "base"]
    assert [line[:2] for line in table[1:]] == [[m, d] for m in models for d in ("demo/qa", "demo/tool", "mean")]
    shown = [float(cell) for line in table[1:] if line[1] != "mean" for cell in line[2:5]]
    assert shown == [pytest.approx(row["value"], abs=5e-5) for row in rows]
    assert measured("base", DEMO / "qa") != measured("run", DEMO / "qa")


def test_evaluate_takes_metrics_and_a_task(capsys, models, tmp_path):
    words = ["evaluate", "run", "--data", DEMO / "title", "--metrics", "map", "hit@3", "--json", "scores.json"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "unknown name 'title'" in err  # the run knows no such task
    assert not (tmp_path / "scores.json").exists()
    code, out, _ = run(capsys, *words, "--task", "qa")
    assert code == 0
    rows = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    data = read_retrieval_set(DEMO / "title", task="qa")
    expected = evaluate(Encoder.from_pretrained("run", device="cpu"), data, metrics=["map", "hit@3"])
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(expected)
    note, empty, header, *_ = out.splitlines()
    assert (note.startswith("note: run: "), empty) == (True, "")
    assert header.split() == ["model", "data", "map", "hit@3"]


def test_sets_whose_paths_end_alike_stay_apart(capsys, models, tmp_path):
    for name, task in (("one", "qa"), ("two", "title")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "zh").symlink_to(DEMO / task)
    code, out, _ = run(capsys, "evaluate", "base", "--data", "one/data/zh", "two/data/zh", "--metrics", "mrr@10")
    assert code == 0
    found = {line.split()[1]: float(line.split()[2]) for line in out.splitlines()[1:]}
    values = [measured("base", DEMO / task, ["mrr@10"])["mrr@10"] for task in ("qa", "title")]
    assert values[0] != pytest.approx(values[1], abs=1e-3)
    assert found == pytest.approx(
        {"one/data/zh": values[0], "two/data/zh": values[1], "mean": sum(values) / 2}, abs=5e-5
    )


@pytest.mark.slow
def test_evaluate_runs_as_a_process_and_says_nothing_else(models, tmp_path):
    words = [*forked(), PROGRAM, "evaluate", "base", "--data", DEMO / "qa", "--json", "scores.json"]
    process = start(words, tmp_path, apart=True)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 2
    rows = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(measured("base", DEMO / "qa"), abs=1e-6)


@pytest.mark.parametrize("word", ["vocabulary", "new-base"])
def test_a_folder_of_the_users_own_is_refused_and_stays(word, tmp_path, capsys):
    """These two replace what is there: they once deleted folders of documents and runs that were named by mistake."""
    documents, corpus = tmp_path / "documents", tmp_path / "corpus.txt"
    documents.mkdir()
    (documents / "contract.txt").write_text("合同", "utf-8")
    corpus.write_text("今天天气很好\n" * 30, "utf-8")
    words = {
        "vocabulary": [corpus, "--output_dir", documents, "--keep_traditional"],
        "new-base": ["nano-zh-static", "--output_dir", documents, "--num_layers", 1, "--num_heads", 4],
    }
    assert main([word, *map(str, words[word])]) == 2
    assert "documents: is there already, expected a new folder, or --overwrite" in capsys.readouterr().err
    assert main([word, *map(str, words[word]), "--overwrite"]) == 2
    assert f"--overwrite: {documents} holds contract.txt, expected an earlier" in capsys.readouterr().err
    assert [path.name for path in documents.iterdir()] == ["contract.txt"]
