"""A microscope: what happens to one input inside a backbone."""
