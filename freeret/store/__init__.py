"""The store: a LanceDB table of items and vectors, how it is filled, filtered and exported."""
