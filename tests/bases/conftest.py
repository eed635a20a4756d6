"""A small model, and a hub on loopback that serves it."""

from pathlib import Path

import pytest

from tests.hub_server import running
from zh_embedder.bases.tiny import build


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model that pools in another way than a bare one would."""
    return build(tmp_path_factory.mktemp("base") / "b", hidden=32, layers=1, heads=2, pooling="mean")


@pytest.fixture(scope="module")
def hub(base):
    with running() as hub:
        hub.add("t/good", base)
        yield hub
