"""A version is found where it is looked for, read exactly, and refused with file and line where it is wrong."""

from dataclasses import fields
from pathlib import Path

import pytest

from zh_embedder.config.instructions import (
    TaskTraining,
    find_version,
    known_versions,
    read_version,
    sides_of,
    single_instruction,
)
from zh_embedder.core.errors import UserError
from zh_embedder.losses.table import LossTerm

BGE = "为这个句子生成表示以用于检索相关文章："  # the colon is full-width
ONE_TASK = 'tasks:\n  qa:\n    query: "{mark}"\n    key: ""\n'


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read_text(tmp_path: Path, text: str | bytes):
    return read_version(str(write(tmp_path / "mine.yaml", text)))


def refused(tmp_path: Path, text: str | bytes) -> str:
    """The message, with the folder cut off its front."""
    with pytest.raises(UserError) as error:
        read_text(tmp_path, text)
    return str(error.value).removeprefix(f"{tmp_path}/")


# ---- where a version is found ---------------------------------------------------------------------------------------


def test_a_name_is_looked_for_in_the_given_folder_then_in_instructions_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = write(tmp_path / "given" / "bge_zh.yaml", ONE_TASK.format(mark="given"))
    beside = write(tmp_path / "instructions" / "bge_zh.yaml", ONE_TASK.format(mark="beside"))

    assert read_version("bge_zh", directory="given").task("qa").query == "given"
    assert read_version("bge_zh").task("qa").query == "beside"
    given.unlink()
    assert read_version("bge_zh", directory="given").task("qa").query == "beside"
    beside.unlink()
    assert read_version("bge_zh", directory="given").task("qa").query == BGE


@pytest.mark.parametrize(
    "name", ["mine.yaml", "./mine.yaml", "folder/mine.yaml", "folder/mine.yml", "folder/no_suffix"]
)
def test_a_path_is_read_as_it_stands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, ONE_TASK.format(mark=name))
    version = read_version(name)
    assert (version.task("qa").query, version.source) == (name, str(Path(name)))


def test_a_name_finds_yml_too_but_yaml_first(tmp_path):
    write(tmp_path / "mine.yml", ONE_TASK.format(mark="yml"))
    assert read_version("mine", directory=str(tmp_path)).task("qa").query == "yml"
    write(tmp_path / "mine.yaml", ONE_TASK.format(mark="yaml"))
    assert read_version("mine", directory=str(tmp_path)).task("qa").query == "yaml"


@pytest.mark.parametrize(
    ("name", "directory", "expected"),
    [
        ("zh_llm_embeder", None, "did you mean 'zh_llm_embedder'?"),
        ("mine", "folder", "--version: unknown name 'mine'; did you mean 'mime'? Known: bge_zh, e5, e5_zh, mime, none"),
        ("bge_zh", "nowhere", "--instructions_dir: no such folder: nowhere"),
        ("folder/mine.yaml", None, "--version: no such file: folder/mine.yaml"),
        ("bge_zh.yaml", None, "--version: no such file: bge_zh.yaml; did you mean 'bge_zh'?"),
    ],
)
def test_a_version_that_is_not_there_is_an_error(name, directory, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "folder" / "mime.yaml", ONE_TASK)
    with pytest.raises(UserError) as error:
        find_version(name, directory=directory)
    assert expected in str(error.value)


def test_known_versions_are_the_files_that_names_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "instructions" / "none.yaml", ONE_TASK)
    write(tmp_path / "given" / "mine.yml", ONE_TASK)
    found = known_versions(directory="given")
    assert set(found) == {"bge_zh", "e5", "e5_zh", "mine", "none", "qwen3", "zh_llm_embedder"}
    assert all(find_version(name, directory="given") == path for name, path in found.items())


# Line 1 is `tasks:`, line 2 the task, its entries follow.
QA = "tasks:\n  qa:\n    query: ''\n    key: ''\n"


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_everything_that_a_file_says_is_read(tmp_path):
    version = read_text(
        tmp_path,
        """\
        default: {query: 默认：, key: ''}
        tasks:
          qa:
            query: "问题：\\n"
            key: '段落'
            training:
              select_positive: teacher-pos
              select_negative: teacher+
              max_sample_num: 10
              teacher_scores_min: -1
              teacher_scores_margin: 0.5
              contrastive_weight: 0
              distill_weight: 2
              teacher_temperature: 0.1
              student_temperature: 1.0e-1
              stable_distill: true
        """,
    )
    qa = version.task("qa")
    assert (version.name, qa.name, qa.query, qa.key) == ("mine", "qa", "问题：\n", "段落")
    assert qa.training == TaskTraining(
        select_positive="teacher-pos",
        select_negative="teacher+",
        max_sample_num=10,
        teacher_scores_min=-1,
        teacher_scores_margin=0.5,
        contrastive_weight=0,
        distill_weight=2,
        teacher_temperature=0.1,
        student_temperature=0.1,
        stable_distill=True,
    )


def test_the_default_serves_every_task_that_the_file_does_not_name(tmp_path):
    version = read_text(
        tmp_path,
        "default:\n  query: 默认\n  key: 键\n  training: {max_sample_num: 3}\ntasks:\n  qa: {query: 问, key: ''}\n",
    )
    other = version.task("other")
    assert (other.name, other.query, other.key, other.training.max_sample_num) == ("other", "默认", "键", 3)
    qa = version.task("qa")  # a task of its own takes nothing from the default
    assert (qa.query, qa.key, qa.training) == ("问", "", TaskTraining())


def test_a_record_with_an_unknown_task_hears_task_and_version(tmp_path):
    version = read_text(tmp_path, "tasks:\n  nli: {query: '', key: ''}\n  qa: {query: '', key: ''}\n")
    with pytest.raises(UserError) as error:
        version.task("nil", where="train.jsonl:17: task")
    assert str(error.value).startswith(
        f"train.jsonl:17: task: version 'mine' ({tmp_path / 'mine.yaml'}) has no task 'nil'; did you mean 'nli'? "
        "Known: nli, qa."
    )


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert read_text(tmp_path, b"\xef\xbb\xbf" + QA.encode()).task("qa").key == ""


def test_an_alias_gives_two_tasks_the_same_words(tmp_path):
    version = read_text(tmp_path, "tasks:\n  a: &words {query: 问, key: 答}\n  b: *words\n")
    assert [(version.task(n).name, version.task(n).query) for n in "ab"] == [("a", "问"), ("b", "问")]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("taks:\n  qa: {query: '', key: ''}\n", "mine.yaml:1: unknown name 'taks'; did you mean 'tasks'?"),
        (
            QA.replace("key", "keys"),
            "mine.yaml:4: tasks.qa: unknown name 'keys'; did you mean 'key'? Known: key, query, training",
        ),
        (
            QA + "    trainning:\n      max_sample_num: 1\n",
            "mine.yaml:5: tasks.qa: unknown name 'trainning'; did you mean 'training'?",
        ),
        (
            QA + "    training:\n      stable_distil: true\n",
            "mine.yaml:6: tasks.qa.training: unknown name 'stable_distil'; did you mean 'stable_distill'?",
        ),
        ("tasks:\n  qa:\n    query: ''\n", "mine.yaml:2: tasks.qa: key: is missing"),
        ("tasks:\n  qa:\n    key: ''\n", "mine.yaml:2: tasks.qa: query: is missing"),
        ("default:\n  key: ''\n", "mine.yaml:1: default: query: is missing"),
        ("tasks:\n  qa:\n    query: 1\n    key: ''\n", "mine.yaml:3: tasks.qa.query: got 1, expected a string"),
        ("tasks:\n  qa:\n    query: ''\n    key:\n", "mine.yaml:4: tasks.qa.key: got None, expected a string"),
        ("tasks:\n  qa:\n    query: [a]\n    key: ''\n", "mine.yaml:3: tasks.qa.query: got ['a'], expected a string"),
        (
            "tasks:\n  qa:\n    query: ''\n    key: '给{text}'\n",
            "mine.yaml:4: tasks.qa.key: got '给{text}', expected a plain prefix without {placeholders}",
        ),
        (QA + "  nli: {query: '', key: ''}\n  qa: {query: '', key: ''}\n", "mine.yaml:6: tasks.qa: appears twice"),
        (QA + "    key: ''\n", "mine.yaml:5: tasks.qa.key: appears twice"),
        (QA + "tasks: {}\n", "mine.yaml:5: tasks: appears twice"),
        ("tasks:\n  default:\n    query: ''\n", "mine.yaml:2: tasks.default: `default:` belongs next to `tasks:`"),
        ("tasks:\n  qa: ''\n", "mine.yaml:2: tasks.qa: got '', expected a mapping"),
        ("tasks: [qa]\n", "mine.yaml:1: tasks: got ['qa'], expected a mapping"),
        ("tasks:\n  1: {query: '', key: ''}\n", "mine.yaml:2: tasks: got 1, expected a name (put quotes around it"),
        ("tasks:\n  no:\n    query: ''\n", "mine.yaml:2: tasks: got False, expected a name (put quotes around it"),
        ("tasks:\n  q.a:\n    query: ''\n", "mine.yaml:2: tasks.q.a: got 'q.a', expected a task name of letters"),
        ("tasks:\n  query:\n    query: ''\n", "mine.yaml:2: tasks.query: got 'query', expected a task name"),
        (QA + "    training: first\n", "mine.yaml:5: tasks.qa.training: got 'first', expected a mapping"),
        ("qa\n", "mine.yaml:1: got 'qa', expected a mapping"),
        ("tasks:\n", "mine.yaml:1: expected at least one task or a `default:`, found none"),
        ("{}\n", "mine.yaml:1: expected `tasks:` or `default:`, found neither"),
        ("", "mine.yaml:1: the file is empty"),
        ("# 什么也没有\n", "mine.yaml:1: the file is empty"),
        ("tasks:\n  qa: {query: '', key: ''\n", "mine.yaml:3: not valid YAML"),
        ("tasks:\n\tqa: {}\n", "mine.yaml:2: not valid YAML"),
        (QA + "---\n" + QA, "mine.yaml:5: not valid YAML"),
        (QA.replace("''", "'\x07'"), "mine.yaml:3: not valid YAML: character 0x7 is not allowed"),
        ("tasks:\n  qa: {query: 为这个句子, key: ''}\n".encode("gb18030"), "mine.yaml:2: not UTF-8"),
        ("tasks:\n  qa: {query: 为这个句子, key: ''}\n".encode("utf-16"), "mine.yaml:1: not UTF-8"),
        ("tasks:\n  qa:\n    query: !!python/object:os.system ''\n", "mine.yaml:3: not a plain value"),
        ("tasks:\n  qa:\n    query: 2024-13-45\n    key: ''\n", "mine.yaml:3: not a plain value"),
        ("tasks:\n  qa: &qa\n    query: &loop [*loop]\n    key: ''\n", "mine.yaml:3: not a plain value"),
        ("tasks:\n  a: &a {query: '', key: ''}\n  b:\n    <<: *a\n", "mine.yaml:4: not a plain value"),
    ],
)
def test_whatever_is_wrong_in_a_file_is_refused_with_its_line(text, expected, tmp_path):
    assert refused(tmp_path, text).startswith(expected)


CHOICE, WHOLE, NUMBER, SWITCH = "unknown name", "a whole number", "a finite number", "true or false"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("select_positive", "teachers", "unknown name 'teachers'; did you mean 'teacher'?"),
        ("select_positive", "teacher+", CHOICE),  # one of the negatives' names
        ("select_positive", "[first]", CHOICE),
        ("select_negative", "teacher", "unknown name 'teacher'; did you mean"),
        ("select_negative", "null", CHOICE),
        ("max_sample_num", "0", "got 0, expected a number above 0"),
        ("max_sample_num", "-1", "got -1, expected a number above 0"),
        ("max_sample_num", "1.5", WHOLE),
        ("max_sample_num", "true", WHOLE),
        ("max_sample_num", "'10'", WHOLE),
        ("teacher_scores_min", "low", NUMBER),
        ("teacher_scores_min", ".nan", NUMBER),
        ("teacher_scores_margin", "true", NUMBER),
        ("teacher_scores_margin", "1e-1", "got '1e-1', expected a finite number (with a point before an exponent"),
        ("contrastive_weight", "-0.1", "got -0.1, expected 0 or more"),
        ("contrastive_weight", "[1]", NUMBER),
        ("distill_weight", "-1", "got -1, expected 0 or more"),
        ("distill_weight", ".inf", NUMBER),
        ("teacher_temperature", "0", "got 0, expected a number above 0"),
        ("teacher_temperature", "null", NUMBER),
        ("student_temperature", "-1.0", "got -1.0, expected a number above 0"),
        ("student_temperature", "{}", NUMBER),
        ("teacher_temperature", "autos", NUMBER),
        ("weight", "0", "got 0, expected a number above 0"),
        ("dataset_weights", "2", "got 2, expected a mapping of names to values"),
        ("loss", "info_nec", "loss: unknown name 'info_nec'; did you mean 'info_nce'?"),
        ("loss", "[]", "got [], expected at least one loss"),
        ("loss", "3", "got 3, expected the name of a loss, or a mapping"),
        ("loss", "[triplet, triplet]", "expected each loss once"),
        ("loss", "{name: info_nce, temprature: 1.0}", "unknown name 'temprature'; did you mean 'temperature'?"),
        ("loss", "{name: info_nce, temperature: 0}", "loss info_nce: temperature: got 0, expected a number above 0"),
        ("loss", "{name: info_nce, in_batch: 1}", "loss info_nce: in_batch: got 1, expected true or false"),
        ("loss", "{name: info_nce, weight: 0}", "loss info_nce: weight: got 0, expected a number above 0"),
        ("loss", "{name: triplet, margin: -1}", "loss triplet: margin: got -1, expected 0 or more"),
        (
            "loss",
            "{name: cosine_regression, score_range: [5, 0]}",
            "score_range: got [5, 0], expected the lower number",
        ),
        ("loss", "{name: cosine_regression, score_range: 5}", "score_range: got 5, expected two numbers"),
        ("stable_distill", "1", SWITCH),
        ("stable_distill", "'true'", SWITCH),
    ],
)
def test_a_wrong_training_setting_is_refused_with_its_line_and_name(name, value, expected, tmp_path):
    message = refused(tmp_path, f"{QA}    training:\n      {name}: {value}\n")
    assert message.startswith(f"mine.yaml:6: tasks.qa.training.{name}: ")
    assert expected in message


def test_dataset_weights_and_a_loss_beside_its_older_spelling_are_refused(tmp_path):
    start = f"{QA}    training:\n"
    message = refused(tmp_path, f"{start}      dataset_weights: {{cmrc2018: 0}}\n")
    assert "tasks.qa.training.dataset_weights.cmrc2018: got 0, expected a number above 0" in message
    message = refused(tmp_path, f"{start}      distill_weight: 0\n      loss: info_nce\n")
    assert message.startswith("mine.yaml:7: tasks.qa.training.loss: cannot be used with distill_weight")


def test_a_task_names_its_losses_with_weights_and_options(tmp_path):
    path = tmp_path / "mine.yaml"
    losses = "[{name: info_nce, weight: 0.2, temperature: 0.02}, margin_mse]"
    path.write_text(f"{QA}    training: {{loss: {losses}, weight: 2, teacher_temperature: auto}}\n", "utf-8")
    training = read_version(str(path)).task("qa").training
    expected = (LossTerm(name="info_nce", weight=0.2, options={"temperature": 0.02}), LossTerm(name="margin_mse"))
    assert training == TaskTraining(loss=expected, weight=2, teacher_temperature="auto")


def test_every_training_setting_has_its_wrong_values_above():
    (cases,) = test_a_wrong_training_setting_is_refused_with_its_line_and_name.pytestmark
    assert {name for name, _, _ in cases.args[1]} == {f.name for f in fields(TaskTraining)}


# ---- the packaged versions ------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder without instructions of its own."""
    monkeypatch.chdir(tmp_path)


def test_the_packaged_version_has_the_tasks_of_its_ancestor_and_no_default(elsewhere):
    version = read_version("zh_llm_embedder")
    assert {"qa", "convsearch", "chat", "lrlm", "icl", "tool", "law", "title", "sts"} <= version.tasks.keys()
    assert version.default is None


def test_icl_carries_the_exact_instruction_of_bge(elsewhere):
    icl = read_version("zh_llm_embedder").task("icl")
    assert (icl.query, icl.key) == (BGE, "")
    assert icl.query[-1] == "\uff1a"


@pytest.mark.parametrize(("name", "query"), [("bge_zh", BGE), ("none", "")])
def test_a_version_of_one_instruction_serves_every_task(name, query, elsewhere):
    version = read_version(name)
    assert {(version.task(task).query, version.task(task).key) for task in ("qa", "icl", "anything")} == {(query, "")}


def test_instructions_of_different_tasks_differ_and_no_side_ends_in_white_space(elsewhere):
    tasks = read_version("zh_llm_embedder").tasks.values()
    queries = [task.query for task in tasks]
    assert len(set(queries)) == len(queries)
    assert all(text == text.strip() for task in tasks for text in (task.query, task.key))


# LLM-Embedder's settings: positive, negative, max_sample_num, scores_margin, contrastive, distill, teacher_temperature,
# stable_distill. None: its default.
ANCESTOR = {
    "qa": ("first", "random", None, None, 0, None, None, True),
    "convsearch": ("first", "random", None, None, None, 0, None, False),
    "chat": ("teacher", "random", None, None, 0, 1.0, 0.1, False),
    "lrlm": ("teacher", "random", 10000, 0.1, 0, 1.0, 0.1, False),
    "icl": ("random", "random", None, None, 0, None, None, True),
    "tool": ("first", "random", None, None, None, 0, None, False),
}


@pytest.mark.parametrize("task", ANCESTOR)
def test_the_six_tasks_train_as_llm_embedder_trains_them(task, elsewhere):
    own = read_version("zh_llm_embedder").task(task).training
    assert (
        own.select_positive,
        own.select_negative,
        own.max_sample_num,
        own.teacher_scores_margin,
        own.contrastive_weight,
        own.distill_weight,
        own.teacher_temperature,
        bool(own.stable_distill),
    ) == ANCESTOR[task]
    assert (own.teacher_scores_min, own.student_temperature) == (None, None)


@pytest.mark.parametrize("task", ["law", "title", "sts"])
def test_the_other_tasks_change_no_setting(task, elsewhere):
    assert read_version("zh_llm_embedder").task(task).training == TaskTraining()


@pytest.mark.real
def test_every_task_of_the_real_data_has_an_instruction(real_data, elsewhere):
    queries = sorted(real_data.glob("*/*/test/queries.jsonl"))
    assert len(queries) == 9
    version = read_version("zh_llm_embedder")
    assert all(version.task(path.relative_to(real_data).parts[0]).query for path in queries)


def test_flag_embeddings_instruction_flags_make_a_version_for_all_tasks():
    version = single_instruction("查询：", "", source="--query_instruction")
    assert [(version.task(t).name, version.task(t).query, version.task(t).key) for t in ("qa", "x")] == [
        ("qa", "查询：", ""),
        ("x", "查询：", ""),
    ]


def test_a_list_of_versions_needs_the_folder_that_was_named(tmp_path):
    with pytest.raises(UserError, match=r"--instructions_dir: no such folder: .*nope"):
        known_versions(directory=str(tmp_path / "nope"))


# ---- which end of long texts is cut ---------------------------------------------------------------------------------

CUT = """\
default: {query: '', key: ''}
tasks:
  qa: {query: '', key: '', truncation_side: left}
  chat: {query: '', key: '', truncation_side: {query: left}}
  law: {query: '', key: ''}
truncation_side:
  convsearch: {query: left, key: right}
"""


def test_the_end_that_is_cut_is_read_of_both_sides_or_of_one(tmp_path):
    version = read_text(tmp_path, CUT)
    found = {name: version.task(name).truncation_sides for name in ("qa", "chat", "law", "convsearch", "other")}
    assert found == {
        "qa": ("left", "left"),
        "chat": ("left", None),
        "law": (None, None),
        "convsearch": ("left", "right"),
        "other": (None, None),
    }
    assert sides_of(version) == {name: sides for name, sides in found.items() if any(sides)}
    version = read_text(tmp_path, CUT.replace("default: {", "default: {truncation_side: {key: left}, "))
    assert version.task("other").truncation_sides == (None, "left")
    assert version.task("law").truncation_sides == sides_of(version)["law"] == (None, None)
    assert sides_of(version)["default"] == (None, "left")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("side: left}", "side: up}", "3: tasks.qa.truncation_side: got 'up', expected left or right, or one for each"),
        ("side: left}", "side: {key: 3}}", "3: tasks.qa.truncation_side.key: got 3, expected left or right"),
        ("side: left}", "side: {kez: left}}", "3: tasks.qa.truncation_side: unknown name 'kez'; did you mean 'key'?"),
        ("convsearch", "law", "7: truncation_side.law: the task has an entry of its own, expected `truncation_side:`"),
        ("default: {query: '', key: ''}\n", "", "6: truncation_side.convsearch: no `default:` serves this task"),
        ("convsearch", "query", "7: truncation_side.query: got 'query', expected a task name"),
    ],
)
def test_an_end_that_cannot_be_meant_is_refused(tmp_path, old, new, expected):
    assert refused(tmp_path, CUT.replace(old, new)).startswith(f"mine.yaml:{expected}")


def test_conversations_keep_the_end_of_queries_in_every_packaged_version():
    for name, path in known_versions().items():
        version = read_version(str(path))
        for task in ("convsearch", "chat"):
            assert version.task(task).truncation_sides == ("left", None), name
        assert version.task("qa").truncation_sides == (None, None), name
