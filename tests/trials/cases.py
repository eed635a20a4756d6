"""All trials, and the folders that several of them start from."""

from tests.trials import cases_data, cases_machine, cases_right, cases_second, cases_training, cases_use
from tests.trials.case import Case
from tests.trials.material import CORPUS, GOOD, train

ALL: list[Case] = [
    *cases_training.cases.list,
    *cases_use.cases.list,
    *cases_data.cases.list,
    *cases_right.cases.list,
    *cases_machine.cases.list,
    *cases_second.cases.list,
]

PREPARED: dict[str, Case] = {
    "run": Case(
        name="run",
        expect="works",
        argv=tuple(train(output_dir="run", max_steps=4, save_steps=2)),
        files={"train.jsonl": GOOD},
    ),
    "run_with_instructions": Case(
        name="run_with_instructions",
        expect="works",
        argv=tuple(train(output_dir="run_with_instructions", version="zh_llm_embedder", save_steps=2)),
        files={"train.jsonl": GOOD},
    ),
    "vocabulary": Case(
        name="vocabulary",
        expect="works",
        argv=("vocabulary", "corpus.jsonl", "--output_dir", "vocabulary", "--min_count", "1", "--words", "100"),
        files={"corpus.jsonl": CORPUS},
    ),
}
