"""Systems that can be evaluated, under one small interface."""
