"""Trials whose expectation we do not share: the case stays as its author wrote it, and here is why it ends otherwise.

None of these may end in a bug, damage an input or leave something behind: only the words of a message, or whether an
odd input is refused, were decided differently.
"""

DECIDED: dict[str, str] = {}
SOFT = ("silent", "unclear", "wrong_exit")  # verdicts that a decision may explain
