"""Large corpora: Ray, shards, and estimates of time and space."""
