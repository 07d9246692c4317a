"""The demo: a small built-in corpus, searches over it, and the page that shows them."""
