"""Self-contained HTML: pages of hits and reports, and their parts for notebooks."""
