"""What each dataset trains, by flags and by its task's own settings; whatever gives way is noted, never silent."""

import json
import math

import pytest

from zh_embedder.config.dataset_plan import dataset_shares, plan_datasets
from zh_embedder.config.instructions import TaskSpec, TaskTraining, Version, read_version
from zh_embedder.config.train import DataArguments, TrainArguments
from zh_embedder.core.errors import UserError
from zh_embedder.data.groups import SelectionRule
from zh_embedder.data.records import load_datasets
from zh_embedder.losses.table import LossTerm

PLAIN = {"pos": ["甲"], "neg": ["乙", "丙"]}
SCORED = {**PLAIN, "teacher_scores": [0.9, 0.5, 0.1]}
ALONE = {"pos": ["甲"]}
HISTORY = {"history": ["乙", "丙"], "teacher_scores": [0.2, 0.7]}


@pytest.fixture
def dataset(tmp_path):
    """A dataset of these records, all of task qa unless they say otherwise."""

    def make(*records: dict, name: str = "train.jsonl", task: str | None = "qa"):
        path = tmp_path / name
        own = {"task": task} if task else {}
        if "pos" in records[0] or "history" in records[0]:
            records = [{"query": f"问{i}", **r} for i, r in enumerate(records)]
        lines = [json.dumps({**own, **r}, ensure_ascii=False) for r in records]
        path.write_text("\n".join(lines), "utf-8")
        (found,) = load_datasets([path], cache_dir=str(tmp_path / "cache"))
        return found

    return make


def version(**training) -> Version:
    """A version with one task, qa, and these settings of its own."""
    spec = TaskSpec(name="qa", query="问：", key="答：", training=TaskTraining(**training))
    return Version(name="mine", source="mine.yaml", tasks={"qa": spec})


def flags(**chosen) -> tuple[DataArguments, TrainArguments]:
    names = {"inbatch_same_dataset": "epoch", "train_group_size": 3}
    names |= {name: value for name, value in chosen.items() if name in DataArguments.__dataclass_fields__}
    train = {name: value for name, value in chosen.items() if name not in DataArguments.__dataclass_fields__}
    train = {"output_dir": "out", "report_to": ["none"], "cos_temperature": 0.05, "use_cpu": True, **train}
    return DataArguments(**names), TrainArguments(**train)


def plan(*datasets, metric: str = "cos", of: Version | None = None, **chosen):
    return plan_datasets(datasets, of or version(), *flags(**chosen), metric=metric)


@pytest.mark.parametrize(
    ("own", "flag", "sides"),
    [
        ((None, None), "right", (None, None)),
        (("left", None), "right", ("left", None)),
        (("right", "left"), "right", (None, "left")),
        ((None, "right"), "left", ("left", "right")),
    ],
)
def test_the_end_that_is_cut_is_the_tasks_else_the_flags(dataset, own, flag, sides):
    spec = TaskSpec(name="qa", query="问：", key="答：", truncation_sides=own)
    of = Version(name="mine", source="mine.yaml", tasks={"qa": spec})
    (found,) = plan_datasets([dataset(PLAIN)], of, *flags(), metric="cos", truncation_side=flag)
    assert found.sides == sides


def plan_one(dataset, **options):
    (found,) = plan(dataset, **options)
    return found


def refused(*datasets, **options) -> str:
    with pytest.raises(UserError) as error:
        plan(*datasets, **options)
    return str(error.value)


NCE = LossTerm(name="info_nce", options={"temperature": 0.05, "in_batch": True})


def nce(weight: float, **options) -> LossTerm:
    return LossTerm(name="info_nce", weight=weight, options={**NCE.options, **options})


def kl(weight: float = 1.0, **options) -> LossTerm:
    defaults = {"temperature": 0.05, "teacher_temperature": 1.0, "student_temperature": 1.0}
    return LossTerm(name="teacher_kl", weight=weight, options={**defaults, **options})


def ranked(weight: float = 1.0, *, sort: bool, **options) -> LossTerm:
    defaults = {"temperature": 0.05, "teacher_temperature": 1.0, "in_batch": True}
    name = "ranked_distillation" if sort else "m3_distillation"
    return LossTerm(name=name, weight=weight, options={**defaults, **options})


# ---- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "chosen", "terms"),
    [
        (PLAIN, {}, (NCE,)),
        (PLAIN, {"contrastive_weight": 0.7, "distill_weight": 0.3}, (NCE,)),  # alone, its weight is 1
        (SCORED, {}, (nce(0.2), kl(1.0))),
        (SCORED, {"contrastive_weight": 0.7, "distill_weight": 0.3}, (nce(0.7), kl(0.3))),
        (SCORED, {"contrastive_weight": 0, "distill_weight": 0.3}, (kl(1.0),)),  # alone, its weight is 1
        (SCORED, {"distill_weight": 0}, (NCE,)),
        (SCORED, {"knowledge_distillation": False}, (NCE,)),
        (SCORED, {"knowledge_distillation": True}, (nce(0.2), kl(1.0))),
        (
            SCORED,
            {"teacher_temperature": 0.1, "student_temperature": 2.0},
            (nce(0.2), kl(1.0, teacher_temperature=0.1, student_temperature=2.0)),
        ),
        (SCORED, {"stable_distill": True}, (nce(0.2), ranked(sort=True))),
        (SCORED, {"kd_loss_type": "m3_kd_loss"}, (nce(0.2), ranked(sort=False))),
        (SCORED, {"stable_distill": True, "kd_loss_type": "m3_kd_loss"}, (nce(0.2), ranked(sort=True))),
        (
            SCORED,
            {"kd_loss_type": "m3_kd_loss", "teacher_temperature": 0.5, "contrastive_weight": 0},
            (ranked(sort=False, teacher_temperature=0.5),),
        ),
    ],
)
def test_flags_choose_the_loss(dataset, record, chosen, terms):
    found = plan_one(dataset(record, record), **chosen)
    assert found.terms == terms
    assert found.rule.with_teacher is any(term.name != "info_nce" for term in terms)
    assert found.notes == ()
    assert (
        plan_one(dataset(record, record), of=version(distill_weight=9, contrastive_weight=9), **chosen).terms == terms
    )


@pytest.mark.parametrize(
    ("record", "own", "chosen", "terms"),
    [
        (SCORED, {"contrastive_weight": 0}, {}, (kl(1.0),)),
        (SCORED, {"contrastive_weight": 0.5, "distill_weight": 0.25}, {"distill_weight": 0}, (nce(0.5), kl(0.25))),
        (SCORED, {"distill_weight": 0}, {}, (NCE,)),
        (SCORED, {"stable_distill": True}, {}, (nce(0.2), ranked(sort=True))),
        (SCORED, {"stable_distill": False}, {"stable_distill": True}, (nce(0.2), kl(1.0))),
        (SCORED, {"teacher_temperature": 0.1}, {"teacher_temperature": 5.0}, (nce(0.2), kl(teacher_temperature=0.1))),
        (SCORED, {"student_temperature": 3.0}, {}, (nce(0.2), kl(student_temperature=3.0))),
        (SCORED, {}, {"teacher_temperature": 5.0}, (nce(0.2), kl(teacher_temperature=5.0))),
        (PLAIN, {"distill_weight": 0}, {}, (NCE,)),
    ],
)
def test_a_tasks_own_settings_stand_in_front_of_the_flags(dataset, record, own, chosen, terms):
    found = plan_one(dataset(record, record), of=version(**own), use_train_config=True, **chosen)
    assert found.terms == terms


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_only_cosines_are_divided_by_the_cosine_temperature(dataset, metric):
    found = plan_one(dataset(SCORED, SCORED), metric=metric)
    assert [term.options["temperature"] for term in found.terms] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("record", "own", "note"),
    [
        (
            PLAIN,
            {"contrastive_weight": 0},
            "set to distil only, but its records have no teacher scores: InfoNCE instead",
        ),
        ({"pos": ["甲", "乙"], "teacher_scores": [2, 1]}, {}, "teacher scores of positives alone rank nothing"),
        (
            {"pos": ["甲", "乙"], "teacher_scores": [2, 1]},
            {"contrastive_weight": 0},
            "teacher scores of positives alone rank nothing: InfoNCE instead",
        ),
    ],
)
def test_where_nothing_can_be_distilled_infonce_stands_in_and_a_note_says_so(dataset, record, own, note):
    found = plan_one(dataset(record, record), of=version(**own), use_train_config=True)
    assert found.terms == (NCE,)
    assert not found.rule.with_teacher
    assert any(text.startswith(note) for text in found.notes)


@pytest.mark.parametrize("name", ["train_no_in_batch_neg.jsonl", "folder_no_in_batch_neg/train.jsonl"])
def test_a_file_without_in_batch_negatives_scores_its_own_groups_only(tmp_path, dataset, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    assert plan_one(dataset(PLAIN, PLAIN, name=name)).terms == (nce(1.0, in_batch=False),)


def test_ranked_distillation_without_in_batch_negatives_ranks_the_own_group_only(dataset):
    found = plan_one(dataset(SCORED, name="train_no_in_batch_neg.jsonl"), stable_distill=True)
    assert found.terms == (nce(0.2, in_batch=False), ranked(sort=True, in_batch=False))


@pytest.mark.parametrize(
    ("records", "chosen", "message"),
    [
        ([SCORED, PLAIN], {}, "task qa: only some records have teacher_scores, expected all or none"),
        (
            [PLAIN],
            {"knowledge_distillation": True},
            "--knowledge_distillation True: the records have no teacher scores",
        ),
        ([SCORED, PLAIN], {"knowledge_distillation": True, "distill_weight": 0}, "have no teacher scores"),
        (
            [PLAIN],
            {"contrastive_weight": 0, "distill_weight": 0},
            "contrastive_weight 0 and no distillation leave no loss, expected one of them",
        ),
        ([SCORED], {"contrastive_weight": 0, "knowledge_distillation": False}, "leave no loss"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_with_the_file(dataset, records, chosen, message):
    found = refused(dataset(*records), **chosen)
    assert message in found
    assert "train.jsonl" in found


def test_scores_of_some_records_do_no_harm_where_nothing_is_distilled(dataset):
    assert plan_one(dataset(SCORED, PLAIN), distill_weight=0.0).terms == (NCE,)


# ---- the groups -----------------------------------------------------------------------------------------------------


def test_flags_choose_the_groups(dataset):
    found = plan_one(
        dataset(PLAIN, PLAIN),
        train_group_size=5,
        select_positive="random",
        select_negative="first",
        random_negatives=2,
        shuffle_ratio=0.25,
        of=version(select_positive="teacher", select_negative="teacher+"),  # not without --use_train_config
    )
    assert found.rule == SelectionRule(
        group_size=5, select_positive="random", select_negative="first", random_negatives=2, shuffle_ratio=0.25
    )


def test_a_task_chooses_its_own_groups(dataset):
    found = plan_one(
        dataset(SCORED, SCORED),
        of=version(select_positive="teacher", select_negative="teacher+"),
        use_train_config=True,
    )
    assert (found.rule.select_positive, found.rule.select_negative) == ("teacher", "teacher+")
    assert found.notes == ()


@pytest.mark.parametrize("positive", ["teacher", "teacher-pos"])
@pytest.mark.parametrize("negative", ["teacher+", "teacher-"])
def test_a_task_whose_records_have_no_scores_falls_back_and_notes_it(dataset, positive, negative):
    own = version(select_positive=positive, select_negative=negative)
    found = plan_one(dataset(PLAIN, PLAIN), of=own, use_train_config=True)
    assert (found.rule.select_positive, found.rule.select_negative) == ("first", "random")
    assert found.notes == (
        "no teacher scores: select_positive first instead",
        "no teacher scores: select_negative random instead",
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"select_positive": "teacher"}, "select_positive teacher: the records have no teacher_scores"),
        ({"select_positive": "teacher-pos"}, "select_positive teacher-pos: the records have no teacher_scores"),
        ({"select_negative": "teacher+"}, "select_negative teacher+: the records have no teacher_scores"),
        ({"select_negative": "teacher-"}, "select_negative teacher-: the records have no teacher_scores"),
    ],
)
def test_a_flag_that_needs_scores_is_refused_without_them(dataset, chosen, message):
    assert message in refused(dataset(PLAIN, PLAIN), **chosen)
    assert message in refused(dataset(PLAIN, PLAIN), use_train_config=True, **chosen)  # the task says nothing of it


@pytest.mark.parametrize(
    ("how", "right"), [("teacher", True), ("first", False), ("random", False), ("teacher-pos", False)]
)
def test_history_needs_the_teacher_to_choose_the_positive(dataset, how, right):
    found = dataset(HISTORY, HISTORY)
    if right:
        assert plan_one(found, select_positive=how).rule.select_positive == how
        assert plan_one(found, of=version(select_positive=how), use_train_config=True).rule.select_positive == how
    else:
        assert "records with `history` and no `pos` need --select_positive teacher" in refused(
            found, select_positive=how
        )


def test_distilled_records_take_no_negatives_of_other_records(dataset):
    found = dataset(SCORED, SCORED)
    assert "--random_negatives: qa:train.jsonl is distilled" in refused(found, random_negatives=1)
    assert plan_one(found, random_negatives=1, distill_weight=0.0).rule.random_negatives == 1


SERVED = "no negatives: the step's other keys serve (--random_negatives N draws more)"
DRAWN = "no negatives: drawn from the dataset's other records"


@pytest.mark.parametrize(
    ("chosen", "name", "size", "notes"),
    [
        ({}, "train.jsonl", 1, (SERVED,)),
        ({"train_group_size": 1}, "train.jsonl", 1, ()),
        ({"random_negatives": 2}, "train.jsonl", 3, (DRAWN,)),
        ({"per_device_train_batch_size": 1}, "train.jsonl", 3, (DRAWN,)),  # no other keys in a step of one query
        ({"per_device_train_batch_size": 2}, "train.jsonl", 1, (SERVED,)),
        ({"inbatch_same_dataset": None}, "train.jsonl", 3, (DRAWN,)),  # groups of a mixed step are of one size
        ({}, "no_in_batch_neg.jsonl", 3, (DRAWN,)),
    ],
)
def test_records_without_negatives_take_the_steps_or_draw_their_own(dataset, chosen, name, size, notes):
    found = plan_one(dataset(ALONE, ALONE, name=name), **chosen)
    assert (found.rule.group_size, found.notes) == (size, notes)


def test_one_record_with_negatives_keeps_the_group(dataset):
    found = plan_one(dataset(ALONE, PLAIN))
    assert (found.rule.group_size, found.notes) == (3, ())


# ---- filters --------------------------------------------------------------------------------------------------------


def scored(*scores: float) -> dict:
    return {**PLAIN, "teacher_scores": [*scores]}


RANGE = [scored(0.9, 0.1, 0.0), scored(0.3, 0.2, 0.1), scored(0.8, 0.8, 0.7)]


@pytest.mark.parametrize(
    ("settings", "kept", "notes"),
    [
        ({}, [0, 1, 2], ()),
        ({"teacher_scores_min": 0.5}, [0, 2], ("1 record left out by teacher_scores_min 0.5, margin None",)),
        ({"teacher_scores_margin": 0.15}, [0, 1], ("1 record left out by teacher_scores_min None, margin 0.15",)),
        (
            {"teacher_scores_min": 0.5, "teacher_scores_margin": 0.15},
            [0],
            ("2 records left out by teacher_scores_min 0.5, margin 0.15",),
        ),
        ({"max_sample_num": 3}, [0, 1, 2], ()),
    ],
)
@pytest.mark.parametrize("by_task", [False, True])
def test_records_left_out_are_counted(dataset, settings, kept, notes, by_task):
    chosen = {"of": version(**settings), "use_train_config": True} if by_task else settings
    found = plan_one(dataset(*RANGE), **chosen)
    assert [found.records[row].query for row in range(len(found.records))] == [f"问{i}" for i in kept]
    assert found.notes == notes


def queries(found) -> list[str]:
    return [found.records[row].query for row in range(len(found.records))]


def test_a_sample_is_drawn_with_the_data_seed(dataset):
    many = dataset(*[PLAIN] * 50)
    found = plan_one(many, max_sample_num=5)
    assert found.notes == ("45 records dropped by max_sample_num 5",)
    assert len(found.records) == 5
    assert queries(found) == queries(plan_one(many, max_sample_num=5, seed=42))  # transformers' default
    assert queries(found) != queries(plan_one(many, max_sample_num=5, seed=1))
    assert queries(plan_one(many, max_sample_num=5, seed=1, data_seed=42)) == queries(found)
    assert queries(plan_one(many, max_sample_num=5, seed=1, data_seed=0)) == queries(
        plan_one(many, max_sample_num=5, seed=0)
    )


def test_both_filters_are_noted(dataset):
    found = plan_one(dataset(*RANGE), teacher_scores_min=0.5, max_sample_num=1)
    assert found.notes == (
        "1 record left out by teacher_scores_min 0.5, margin None",
        "1 record dropped by max_sample_num 1",
    )


def test_a_filter_that_leaves_nothing_is_refused(dataset):
    message = refused(dataset(*RANGE), teacher_scores_min=0.95)
    assert message.endswith("train.jsonl: every record is dropped by teacher_scores_min 0.95 and margin None")


# ---- the task -------------------------------------------------------------------------------------------------------

INSTRUCTED = {"query_instruction": "用户：", "key_instruction": "文档："}


@pytest.mark.parametrize(
    ("task", "chosen", "expected"),
    [
        ("qa", {}, ("qa", "问：", "答：")),
        ("qa", {"default_task": "nowhere"}, ("qa", "问：", "答：")),  # the records' own
        ("qa", INSTRUCTED, ("qa", "问：", "答：")),
        (None, {"default_task": "qa"}, ("qa", "问：", "答：")),
        (None, INSTRUCTED, ("default", "用户：", "文档：")),
        (None, {**INSTRUCTED, "default_task": "mine"}, ("mine", "用户：", "文档：")),
        (None, {"query_instruction": "用户："}, ("default", "用户：", "")),
        (None, {"key_instruction": "文档："}, ("default", "", "文档：")),
        (None, {"query_instruction": ""}, ("default", "", "")),
    ],
)
def test_the_task_of_a_dataset(dataset, task, chosen, expected):
    found = plan_one(dataset(PLAIN, task=task), **chosen)
    assert (found.task, found.query_prefix, found.key_prefix) == expected


def test_without_instructions_a_dataset_has_no_prefixes_and_uses_no_prompts(dataset):
    found = plan_one(dataset(PLAIN), add_instruction=False)
    assert (found.task, found.query_prefix, found.key_prefix, found.use_prompts) == ("qa", "", "", False)


@pytest.mark.parametrize(
    ("task", "chosen", "message"),
    [
        ("qaa", {}, r"train.jsonl:1: task: version 'mine' (mine.yaml) has no task 'qaa'; did you mean 'qa'?"),
        (None, {"default_task": "qaa"}, "--default_task: version 'mine' (mine.yaml) has no task 'qaa'; did you mean"),
        (None, {}, "train.jsonl:1: task: is missing; add it to the records, or use --default_task NAME"),
    ],
)
def test_a_task_that_nobody_knows_is_refused(dataset, task, chosen, message):
    assert message in refused(dataset(PLAIN, task=task), **chosen)


def test_a_version_for_every_task_serves_any(dataset):
    found = plan_one(dataset(PLAIN, task="某任务"), of=read_version("bge_zh"))
    assert (found.task, found.query_prefix, found.key_prefix) == (
        "某任务",
        "为这个句子生成表示以用于检索相关文章：",
        "",
    )


# ---- steps that mix datasets ----------------------------------------------------------------------------------------


def test_each_dataset_has_its_own_loss_where_steps_are_of_one(dataset):
    both = plan(dataset(SCORED, name="a.jsonl"), dataset(PLAIN, name="b.jsonl"))
    assert [found.terms for found in both] == [(nce(0.2), kl(1.0)), (NCE,)]
    assert [found.rule.with_teacher for found in both] == [True, False]


def test_mixed_steps_distil_only_where_every_dataset_can(dataset):
    first, second, plain = (
        dataset(SCORED, name="a.jsonl"),
        dataset(SCORED, name="b.jsonl"),
        dataset(PLAIN, name="c.jsonl"),
    )
    all_scored = plan(first, second, inbatch_same_dataset=None)
    assert [found.terms for found in all_scored] == [(nce(0.2), kl(1.0))] * 2
    assert [found.notes for found in all_scored] == [(), ()]
    note = "steps mix datasets and some have no teacher scores, so only InfoNCE is used"
    some = plan(first, plain, second, inbatch_same_dataset=None)
    assert [found.terms for found in some] == [(NCE,)] * 3
    assert [found.rule.with_teacher for found in some] == [False] * 3
    assert [found.notes for found in some] == [(note,), (), (note,)]
    assert [found.terms for found in plan(plain, inbatch_same_dataset=None)] == [(NCE,)]


def test_mixed_steps_cannot_switch_in_batch_negatives_off_for_one(dataset):
    message = refused(dataset(PLAIN, name="no_in_batch_neg.jsonl"), inbatch_same_dataset=None)
    assert message.endswith("no_in_batch_neg.jsonl: no_in_batch_neg needs --inbatch_same_dataset")


# ---- the version that ships -----------------------------------------------------------------------------------------


def test_the_published_settings_of_each_task_hold(dataset):
    """LLM-Embedder's multi-task settings, as its own configuration has them."""
    wide = {"pos": ["甲"], "neg": ["乙", "丙"], "teacher_scores": [0.9, 0.5, 0.1]}
    own = read_version("zh_llm_embedder")
    found = {
        task: plan_one(dataset(wide, wide, name=f"{task}.jsonl", task=task), of=own, use_train_config=True)
        for task in ("qa", "convsearch", "chat", "lrlm", "icl", "tool")
    }
    sharp = kl(1.0, teacher_temperature=0.1)
    assert {task: one.terms for task, one in found.items()} == {
        "qa": (ranked(sort=True),),
        "convsearch": (NCE,),
        "chat": (sharp,),
        "lrlm": (sharp,),
        "icl": (ranked(sort=True),),
        "tool": (NCE,),
    }
    assert {task: one.rule.select_positive for task, one in found.items()} == {
        "qa": "first",
        "convsearch": "first",
        "chat": "teacher",
        "lrlm": "teacher",
        "icl": "random",
        "tool": "first",
    }
    assert all(math.isclose(one.terms[0].options["temperature"], 0.05) for one in found.values())
    assert {one.notes for one in found.values()} == {()}


# ---- losses by name -------------------------------------------------------------------------------------------------

PAIR = {"text1": "甲", "text2": "乙", "score": 0.5}
LABELLED = {"text": "甲", "label": "喜"}


def names_of(found) -> list[str]:
    return [term.name for term in found.terms]


def test_pairs_and_labelled_texts_have_losses_of_their_own(dataset):
    assert plan_one(dataset(PAIR)).terms == (LossTerm(name="cosent"),)
    assert plan_one(dataset(LABELLED)).terms == (LossTerm(name="supervised_contrastive"),)
    assert plan_one(dataset(PAIR)).rule == SelectionRule(group_size=1)


def test_records_choose_what_fits_them(dataset):
    chosen = {"loss": ["info_nce", "margin_mse", "angle", "supervised_contrastive"], "teacher_temperature": 2.0}
    assert names_of(plan_one(dataset(PAIR), **chosen)) == ["angle"]
    assert names_of(plan_one(dataset(LABELLED), **chosen)) == ["supervised_contrastive"]
    scored = plan_one(dataset(SCORED), **chosen)
    assert scored.terms == (NCE, LossTerm(name="margin_mse"))
    assert scored.rule.with_teacher
    plain = plan_one(dataset(PLAIN), **chosen)
    assert plain.terms == (NCE,)
    assert "loss margin_mse left out: not every record has teacher_scores" in plain.notes


def test_a_tasks_own_losses_stand_in_front_of_those_of_the_flag(dataset):
    own = version(loss=(LossTerm(name="triplet", weight=0.5, options={"margin": 0.1}),))
    assert names_of(plan_one(dataset(PLAIN), of=own, loss=["info_nce"])) == ["info_nce"]
    found = plan_one(dataset(PLAIN), of=own, loss=["info_nce"], use_train_config=True)
    assert found.terms == own.task("qa").training.loss


@pytest.mark.parametrize(
    ("record", "chosen", "expected"),
    [
        (PAIR, ["info_nce"], "these are scored pairs, and loss info_nce cannot learn from them, expected cosine_reg"),
        (LABELLED, ["cosent"], "these are labelled texts, and loss cosent cannot learn from them, expected supervised"),
        (
            PLAIN,
            ["cosent"],
            "these are queries with keys, and loss cosent cannot learn from them, expected info_nce or",
        ),
        (PLAIN, ["margin_mse"], "these are queries with keys; without teacher_scores in every record, and loss margin"),
        (ALONE, ["triplet"], "without neg in every record, and loss triplet cannot learn from them, expected info_nce"),
    ],
)
def test_a_loss_that_fits_no_record_is_refused_with_those_that_do(record, chosen, expected, dataset):
    message = refused(dataset(record), loss=chosen)
    assert "train.jsonl:1: task qa: " in message
    assert expected in message


def test_scores_out_of_range_are_refused_with_the_option_that_helps(dataset):
    stars = dataset(*({**PAIR, "score": score} for score in (0, 3, 5)))
    message = refused(stars, loss=["cosine_regression"])
    assert "the scores lie within 0 and 5, expected within 0 and 1; its option score_range changes that" in message
    below = dataset({**PAIR, "score": -0.5}, name="below.jsonl")
    assert "the scores lie within -0.5 and -0.5, expected within 0 and 1" in refused(below, loss=["cosine_regression"])
    own = version(loss=(LossTerm(name="cosine_regression", options={"score_range": [0, 5]}),))
    assert names_of(plan_one(stars, of=own, use_train_config=True)) == ["cosine_regression"]
    alike = dataset(PAIR, {**PAIR, "score": 0.4}, name="alike.jsonl")
    assert "expected some above and some below its option threshold, 0.5" in refused(alike, loss=["contrastive"])


def test_labelled_texts_need_one_encoder(dataset):
    with pytest.raises(UserError, match="expected --tie_encoders True"):
        plan_datasets([dataset(LABELLED)], version(), *flags(), metric="cos", tied=False)


def test_kinds_cannot_stand_in_one_step(dataset):
    both = [dataset(PLAIN), dataset(PAIR, name="pairs.jsonl")]
    said = refused(*both, inbatch_same_dataset=None)
    named = [f"queries with keys ({both[0].path})", f"scored pairs ({both[1].path})"]
    assert f"{' and '.join(named)} cannot share a step" in said
    assert len(plan(*both)) == 2


def test_steps_that_mix_datasets_have_the_losses_that_fit_all(dataset):
    both = [dataset(PLAIN), dataset(ALONE, name="alone.jsonl")]
    found = plan(*both, inbatch_same_dataset=None, loss=["info_nce", "triplet"])
    assert [names_of(one) for one in found] == [["info_nce"], ["info_nce"]]
    assert "steps mix datasets, so only losses that fit all of them are used: info_nce" in found[0].notes
    own = {name: TaskSpec(name=name, query="", key="", training=TaskTraining(loss=(LossTerm(name=loss),))) for
           name, loss in (("qa", "info_nce"), ("tool", "triplet"))}  # fmt: skip
    sets = [dataset(PLAIN), dataset(PLAIN, name="tool.jsonl", task="tool")]
    of = Version(name="mine", source="mine.yaml", tasks=own)
    assert "no loss fits all datasets" in refused(*sets, of=of, inbatch_same_dataset=None, use_train_config=True)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("0.1", {"false_negative_margin": 0.1}),
        ("10%", {"false_negative_percent": 10.0}),
        ("none", {}),
    ],
)
def test_a_margin_for_false_negatives_is_an_option_of_info_nce(text, options, dataset):
    assert plan_one(dataset(PLAIN), false_negative_margin=text).terms == (nce(1.0, **options),)


# ---- teachers -------------------------------------------------------------------------------------------------------


def test_a_temperature_is_found_for_each_dataset(dataset):
    found = plan_one(dataset(SCORED), teacher_temperature="auto", contrastive_weight=0.0)
    (term,) = found.terms
    (note,) = (note for note in found.notes if "teacher_temperature" in note)
    assert note == f"teacher_temperature {term.options['teacher_temperature']:g}: the entropy of the targets is 0.5"
    assert 0.1 < term.options["teacher_temperature"] < 1
    sharper = plan_one(dataset(SCORED), teacher_temperature="auto", contrastive_weight=0.0, teacher_entropy=0.3)
    assert sharper.terms[0].options["teacher_temperature"] < term.options["teacher_temperature"]


def test_equal_teacher_scores_are_counted_aloud(dataset):
    equal = {**SCORED, "teacher_scores": [1, 1, 1]}
    found = plan_one(dataset(SCORED, equal, equal))
    assert "2 of 3 records looked at have equal teacher scores: their targets say nothing" in found.notes
    assert not any("equal" in note for note in plan_one(dataset(SCORED, equal), loss=["info_nce"]).notes)


# ---- shares ---------------------------------------------------------------------------------------------------------


def shares(*datasets, of=None, **chosen):
    data, train = flags(**chosen)
    return dataset_shares(plan_datasets(datasets, of or version(), data, train, metric="cos"), data)


def test_shares_follow_temperature_and_weights(dataset, tmp_path):
    tasks = {name: TaskSpec(name=name, query="", key="", training=own) for name, own in (
        ("qa", TaskTraining(weight=3.0)),
        ("tool", TaskTraining(dataset_weights={"b": 4.0, "nowhere": 9.0})),
    )}  # fmt: skip
    both = Version(name="mine", source="mine.yaml", tasks=tasks)
    sets = [
        dataset(*[PLAIN] * 8),
        dataset(*[PLAIN] * 4, name="a.jsonl", task="tool"),
        dataset(*[PLAIN] * 4, name="b.jsonl", task="tool"),
    ]
    assert shares(*sets, of=both) is None
    assert shares(*sets, of=both, task_temperature=0.0) == pytest.approx((0.5, 0.25, 0.25))
    own = shares(*sets, of=both, task_temperature=0.0, use_train_config=True)
    assert own == pytest.approx((3 / 5.5, 0.5 / 5.5, 2 / 5.5))


# ---- absurd sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (
            {"per_device_train_batch_size": 10**6},
            "--per_device_train_batch_size: got 1000000, a step of 3,000,000 keys",
        ),
        ({"train_group_size": 10_000}, "--train_group_size: got 10000, a step of 160,000 keys"),
    ],
)
def test_a_step_that_can_only_repeat_a_few_records_is_refused(dataset, options, flag):
    data = dataset({"pos": ["甲"], "neg": ["乙"]}, {"pos": ["丙"], "neg": ["丁"]})
    assert refused(data, **options).startswith(flag)
    assert "expected 65,536 at most, as the largest dataset has 2 records" in refused(data, **options)


def test_a_small_dataset_is_still_repeated_to_fill_a_large_step(dataset):
    assert plan(dataset({"pos": ["甲"], "neg": ["乙"]}), per_device_train_batch_size=512, train_group_size=100)
