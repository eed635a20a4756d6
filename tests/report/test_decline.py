"""Causes of a decline: each is named where the run's facts show it, and only there."""

from dataclasses import replace

import pytest

from zh_embedder.evaluation.intervals import Interval
from zh_embedder.report.decline import RunFacts, TaskFacts, checks
from zh_embedder.report.verdict import Change, judge, terminal

FALLING, LEVEL, RISING = ([(n, 1.0 + slope * n) for n in range(8)] for slope in (-0.1, 0.0, 0.1))
# Of nano-zh-static, which has no layers: at a learning rate of 3 and, below, at a sound one.
COLLAPSED = [1.96, 3.34, 5.18, 4.71, *[4.88] * 40, *[3.8] * 40]
VANISHED = [19.4, 31.9, 0.27, 0.015, *[0.01] * 40, *[0.04] * 40]
LEARNING = [1.96, 3.34, 0.8, 23.4, *[1.4] * 40, *[0.02] * 40]
SHRINKING = [19.4, 31.9, 9.9, 62.0, *[14.0] * 40, *[0.6] * 40]
TASK = TaskFacts(records=5000, share=0.5, negatives=True, new_instruction=False)
SOUND = RunFacts(
    learning_rate=1e-5,
    whole_transformer=True,
    saved=20,
    tasks={"qa": TASK, "tool": TASK},
    losses={"qa": LEVEL, "tool": FALLING},
    means=[(0, 0.5), (10, 0.4), (20, 0.4)],
)


def fell(task="qa", *, high=-0.1, **more) -> Change:
    return Change(f"set of {task}", 0.6, 0.4, Interval(-0.2, -0.3, high), task=task, **more)


def with_task(**more) -> RunFacts:
    return replace(SOUND, tasks={**SOUND.tasks, "qa": replace(TASK, **more)})


def test_nothing_is_guessed_where_no_fact_explains_a_decline():
    assert checks([fell()], SOUND) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            replace(SOUND, losses={"tool": RISING}),
            "the training loss rose (tool 1.05 → 1.65): --learning_rate 1e-05 may be",
        ),
        (replace(SOUND, learning_rate=3e-4), "--learning_rate 0.0003 is high for training all weights"),
        (replace(SOUND, means=[(0, 0.5), (10, 0.6), (20, 0.4)]), "step 10 was better than the base and than step 20"),
        (
            replace(SOUND, tasks={"qa": replace(TASK, share=0.2), "tool": replace(TASK, share=0.8)}),
            "tool takes 80 % of the training steps while set of qa fell: --task_temperature",
        ),
        (replace(SOUND, tasks={"tool": TASK, "chat": TASK}), "no training record belongs to set of qa"),
        (with_task(records=112), "few records to learn from (set of qa 112)"),
        (
            replace(SOUND, losses={"qa": FALLING}),
            "the training loss of set of qa fell all the same: look for false neg",
        ),
        (
            replace(with_task(negatives=False), losses={"qa": FALLING}),
            "the training loss of set of qa fell all the same, and its records bring no negatives",
        ),
        (with_task(cut=(0.0, 0.96)), "most keys were cut in training (set of qa 96 %): raise --key_max_length"),
        (with_task(cut=(0.6, 0.1)), "most queries were cut in training (set of qa 60 %): raise --query_max_length"),
        (
            replace(SOUND, losses={"qa": LEVEL, "tool": LEVEL}),
            "the training loss did not fall (1 → 1): --learning_rate 1e-05 may be too high",
        ),
        (
            replace(SOUND, course=COLLAPSED, norms=VANISHED, learning_rate=3, whole_transformer=False),
            "the model stopped learning: its gradients vanished while the training loss rose (1.96 → 4.88): "
            "--learning_rate 3 is probably too high",
        ),
        (with_task(new_instruction=True), "the base does not bring the instructions of set of qa: compare with a run"),
    ],
)
def test_a_fact_that_explains_a_decline_is_named_in_both_languages(facts, expected):
    (found,) = checks([fell()], facts)
    assert found.english.startswith(expected)
    assert found.chinese
    assert checks([fell(high=0.1)], facts) == []  # within noise nothing has to be explained


@pytest.mark.parametrize(
    "facts",
    [
        replace(SOUND, learning_rate=3e-3, whole_transformer=False, course=LEARNING, norms=SHRINKING),
        replace(SOUND, course=COLLAPSED, norms=[20.0] * 84),  # a loss that rose for another reason, and fell again
        replace(SOUND, course=COLLAPSED[:8], norms=VANISHED[:8]),  # too short to tell
        replace(SOUND, losses={"qa": [(n, 0.01) for n in range(8)]}),  # nothing left to learn
        with_task(cut=(0.5, 0.4)),
        replace(SOUND, means=[(0, 0.5), (10, 0.49), (20, 0.4)]),  # better than what was saved, not than the base
        replace(SOUND, means=[(0, 0.3), (10, 0.3), (20, 0.4)]),
        replace(SOUND, losses={"qa": FALLING[:3], "tool": RISING[:3]}),  # too short to tell
        replace(SOUND, losses={"tool": FALLING}),  # another task's
        replace(SOUND, tasks={"qa": replace(TASK, share=0.8), "tool": replace(TASK, share=0.2)}),  # it fell itself
        replace(SOUND, tasks={"qa": TASK, "tool": replace(TASK, records=20, new_instruction=True)}),  # did not fall
    ],
)
def test_a_fact_that_explains_nothing_is_not_named(facts):
    assert checks([fell()], facts) == []


def test_the_canary_counts_as_untrained():
    (found,) = checks([fell(None, canary=True)], SOUND)
    assert found.english.startswith("no training record belongs to set of None")


def test_the_terminal_shows_the_sentence_what_fell_and_what_to_check():
    changes = [fell(), Change("tool", 0.5, 0.9, Interval(0.4, 0.2, 0.6), task="tool")]
    verdict = replace(judge(changes), checks=checks(changes, with_task(records=3)))
    assert terminal(verdict).splitlines() == [
        verdict.english,
        "  set of qa fell: 0.600 → 0.400, -0.200 [-0.300, -0.100]",
        "  check: few records to learn from (set of qa 3): add more, or train for fewer epochs",
    ]
    assert verdict.english.startswith("It got worse in part: ")
    assert judge(changes[:1]).english.startswith("It got worse: ")
    assert terminal(judge(changes[1:])) == judge(changes[1:]).english


def test_the_learning_rate_comes_before_few_records_and_explains_a_loss_that_fell_again():
    facts = replace(with_task(records=112), course=COLLAPSED, norms=VANISHED, losses={"qa": FALLING})
    rate, few = checks([fell()], facts)
    assert "--learning_rate" in rate.english
    assert few.english.startswith("few records")
