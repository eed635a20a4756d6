"""Chinese text: words, sentences, tokens, instructions in front."""
