"""What the log says before and after training."""

from types import SimpleNamespace

import pytest

from zh_embedder.training.summary import which_step


@pytest.mark.parametrize(
    ("wanted", "best", "said"),
    [
        (True, 240, "step 240, the best of those measured"),
        (False, 240, "step 420, the last one; --load_best_model_at_end would have saved the best, step 240"),
        (False, 420, "step 420"),
        (False, None, "step 420"),
    ],
)
def test_the_log_tells_which_step_was_saved(wanted, best, said):
    state = SimpleNamespace(best_global_step=best, global_step=420)
    assert which_step(SimpleNamespace(load_best_model_at_end=wanted), state) == said
