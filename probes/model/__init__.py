"""A traced model: loading it, encoding items in batches, and recording its states."""
