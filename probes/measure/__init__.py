"""The probes: lexicalization, synonyms, framing, injection, paraphrases, reranking; and reports."""
