"""Which datasets have labels, as --label_tasks says; a task that no record has is refused."""

import pytest

from tests.config.test_dataset_plan import dataset, flags, plan, refused  # noqa: F401 - `dataset` is a fixture
from zh_embedder.config.instructions import single_instruction

RECORDS = [{"pos": [f"键{i}"], "neg": ["外"], "answers": [("喜", "怒")[i % 2]]} for i in range(4)]
PLAIN = [{"pos": [f"键{i}"], "neg": ["外"]} for i in range(4)]
ANY = single_instruction("", "", source="any")


@pytest.mark.parametrize(
    ("task", "chosen", "labelled"),
    [
        ("icl", {}, True),
        ("qa", {}, False),
        ("qa", {"label_tasks": ["qa"]}, True),
        ("icl", {"label_tasks": ["none"]}, False),
    ],
)
def test_the_named_tasks_have_labels(task, chosen, labelled, dataset):  # noqa: F811
    (found,) = plan(dataset(*RECORDS, task=task), of=ANY, **chosen)
    assert (found.labels is not None) == labelled
    assert any("answers are labels: 2 labels" in note for note in found.notes) == labelled


def test_records_without_answers_have_no_labels_and_no_note(dataset):  # noqa: F811
    (found,) = plan(dataset(*PLAIN, task="icl"), of=ANY)
    assert found.labels is None
    assert found.notes == ()


def test_a_label_task_that_no_record_has_is_refused(dataset):  # noqa: F811
    message = refused(dataset(*RECORDS, task="mood"), of=ANY, label_tasks=["icl", "moods"])
    assert message.startswith("--label_tasks: unknown name 'moods'")
    assert "mood" in message.split("moods", 1)[1]
