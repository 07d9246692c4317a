"""Many rows at once: cut into batches, run, with what they share computed once."""
