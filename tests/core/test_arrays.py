"""Arrays in files: as numpy writes them, and never silently cut."""

from pathlib import Path

import numpy as np
import pytest

from zh_embedder.core.arrays import save_array


@pytest.mark.parametrize("array", [np.arange(7), np.zeros((3, 4), np.float16), np.empty((0, 2))])
def test_the_bytes_are_numpys(tmp_path, array):
    with (tmp_path / "ours.npy").open("wb") as stream:
        save_array(stream, array)
    np.save(tmp_path / "theirs.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_a_small_array_on_a_full_disk_is_an_error():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space left"), full.open("wb") as stream:
        save_array(stream, np.arange(7))
