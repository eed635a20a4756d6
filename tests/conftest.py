"""Shared by all tests: nothing reaches a hub, nothing starts more threads than the machine can serve."""

import logging
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_logging():
    """Commands started in a test's own process set handlers: undone, or `caplog` would see nothing afterwards."""
    loggers = [logging.getLogger(name) for name in ("zh_embedder", "data_tools")]
    before = [(list(one.handlers), one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture(autouse=True)
def no_logging_folder_left(monkeypatch):
    """--logging_dir is an environment variable to TensorBoard's callback: it must not reach the next test's run."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # so that whatever a test makes of it is undone
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")


@pytest.fixture(autouse=True)
def no_engine_left():
    """Flags that name a DeepSpeed configuration set one for the whole process: later models would be loaded for it."""
    yield
    if (engine := sys.modules.get("transformers.integrations.deepspeed")) is not None:
        engine.unset_hf_deepspeed_config()


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left with one of them at the end: a file says SECONDS, about."""
    items.sort(key=lambda item: -getattr(item.module, "SECONDS", 0))


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """An empty working folder with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZH_EMBEDDER_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where there is none."""
    folder = Path(os.environ.get("ZH_DATA", ROOT / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: ZH_DATA names no folder")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A small Chinese BERT with random weights, mean pooling, in sentence-transformers' layout. Read only."""
    from zh_embedder.bases.tiny import build

    return build(tmp_path_factory.mktemp("base") / "tiny-bert", hidden=32, layers=2, heads=2, pooling="mean")
