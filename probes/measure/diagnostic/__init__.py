"""The retrieval diagnostic: query sets of this project's own, every extraction measured on them,
and the gain of adding words to vectors. No relevance judgements of any benchmark are used."""
