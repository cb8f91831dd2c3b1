"""What `python -m bench.learn` is made of: worlds to learn, a box to learn them in, and what is told of it."""
