"""Label tasks: the tasks whose `answers` are class labels, as --label_tasks names them; they are never guessed.

Equal answers mean little elsewhere: half of the negatives of a yes-no question have its answer.
"""

from __future__ import annotations

from collections.abc import Collection

from zh_embedder.config.train import LABEL_TASKS, DataArguments
from zh_embedder.core.errors import unknown_name
from zh_embedder.data.answer_labels import AnswerLabels, answer_labels, label_hint
from zh_embedder.data.records import TaskDataset
from zh_embedder.data.schema import GROUP


def check_label_tasks(data: DataArguments, tasks: Collection[str]) -> None:
    """Refuse a label task that no record has; the default names one that need not be there.

    Raises:
        UserError: with the nearest task of the records.
    """
    for name in data.label_tasks:
        if name not in tasks and name not in LABEL_TASKS:
            raise unknown_name("--label_tasks", name, tasks)


def choose_labels(dataset: TaskDataset, task: str, data: DataArguments) -> tuple[AnswerLabels | None, list[str]]:
    """Read the labels of a dataset of a label task, None for other tasks; and what is to be logged."""
    if dataset.kind != GROUP:
        return None, []
    return answer_labels(dataset) if task in data.label_tasks else (None, label_hint(dataset))
