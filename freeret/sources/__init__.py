"""Files, folders, tables and object stores as streams of items."""
