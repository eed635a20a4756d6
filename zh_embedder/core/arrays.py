"""Arrays into files, with every failed write noticed."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


class _Written:
    """A stream of which numpy sees nothing but `write`.

    Into a file of the system numpy writes past Python's stream, through a buffer of its own: where that is emptied
    last, on closing, a full disk goes unnoticed and the file lacks its numbers.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.write = stream.write


def save_array(stream: IO[bytes], array: NDArray[Any]) -> None:
    """Write an array as .npy does.

    Raises:
        OSError: not all of it could be written; the last part may fail only when the stream is closed.
    """
    np.save(_Written(stream), array, allow_pickle=False)
