"""Progress of encoding, and of what else goes text by text."""

from __future__ import annotations

from tqdm.auto import tqdm


class Bar(tqdm):
    """A bar in texts/s, with tokens/s behind; shown where the work takes over 5 seconds."""

    def __init__(self, texts: int, *, shown: bool = True) -> None:
        super().__init__(total=texts, unit=" texts", delay=5, leave=False, disable=not shown)
        self.tokens = 0

    def advance(self, texts: int, tokens: int = 0) -> None:
        """Count what was done."""
        self.tokens += tokens
        if tokens and not self.disable:
            self.set_postfix_str(f"{self.tokens / max(1e-9, self.format_dict['elapsed']):,.0f} tokens/s", refresh=False)
        self.update(texts)
