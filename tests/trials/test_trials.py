"""Every trial ends as its author expected before its first run (`python -m tests.trials.runner` tells more)."""

import json
import subprocess
import sys
import time

import pytest

from tests.trials.case import REPOSITORY
from tests.trials.cases import ALL
from tests.trials.decided import DECIDED, OPEN, SOFT

pytestmark = pytest.mark.full


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory):
    """Run all trials once, in a process of its own; workers of pytest-xdist share the results."""
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):
        shared = shared.parent
    results, lock = shared / "trials.json", shared / "trials.lock"
    try:
        lock.mkdir()
    except FileExistsError:
        while not results.exists():
            time.sleep(1)
    else:
        partial = shared / "trials.partial.json"
        command = [sys.executable, "-m", "tests.trials.runner", "--quiet", "--json", str(partial)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if not partial.exists():
            partial.write_text("[]", encoding="utf-8")
            sys.stderr.write(done.stdout + done.stderr)
        partial.rename(results)
    return {result["name"]: result for result in json.loads(results.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", [case.name for case in ALL])
def test_a_trial_ends_as_expected(name, verdicts):
    assert name in verdicts, "the runner wrote no result"
    result = verdicts[name]
    if result["verdict"] == "skipped":
        pytest.skip(result["detail"])
    reason = (DECIDED | OPEN).get(name)
    if reason and result["verdict"] in SOFT and "this is a bug" not in result["output"]:
        pytest.xfail(reason)
    assert result["verdict"] == "ok", (
        f"expected {result['expect']}: {result['detail']}; exit {result['code']}\n{result['output']}"
    )


def test_no_trial_damaged_what_ships_with_the_project(verdicts):
    assert "shipped files" not in verdicts


def test_names_are_unique():
    assert len({case.name for case in ALL}) == len(ALL)


def test_decisions_are_about_trials_that_exist():
    assert set(DECIDED | OPEN) <= {case.name for case in ALL}
