"""Do what a page promises with nothing but the package installed: its records, commands and Python, in that order.

In an empty folder: python /checkout/.ci/smoke.py /checkout/docs/pypi.md
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(json|bash|python)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def main(page: Path) -> None:
    """Write, run and print the blocks of the page."""
    here = {**os.environ, "HF_HUB_OFFLINE": "1"}  # what the page needs comes with the package
    blocks = [found.groups() for found in BLOCK.finditer(page.read_text("utf-8")) if "pip install" not in found[2]]
    if {language for language, _ in blocks} != {"json", "bash", "python"}:
        raise SystemExit(f"{page}: got {[language for language, _ in blocks]}, expected records, commands and Python")
    for language, text in blocks:
        print(text, flush=True)
        if language == "json":
            Path("train.jsonl").write_text(text, "utf-8")
        else:
            words = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
            subprocess.run([*words, text], env=here, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
