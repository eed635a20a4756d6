"""Trials: malformed and odd inputs to every command, written by a tester who knew only README, docs and --help."""
