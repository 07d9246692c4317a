"""The measurements: curves, synonyms, framing, injection, paraphrases and their report."""
