"""Script that waits for a debugger, then runs the one behind it: `python held.py SCRIPT ...`, `... -m MODULE ...`."""

import os
import runpy
import signal
import sys
from pathlib import Path

os.kill(os.getpid(), signal.SIGSTOP)
del sys.argv[0]
if sys.argv[0] == "-m":
    del sys.argv[0]
    sys.path[0] = str(Path.cwd())
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
