"""Result files, the tables made of them, and published values beside them."""
