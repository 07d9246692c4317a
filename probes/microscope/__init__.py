"""Looking at one input: what each state in it says, and what happens when it is changed."""
