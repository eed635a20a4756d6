"""Where bases come from: names, folder formats, vocabularies, random weights."""
