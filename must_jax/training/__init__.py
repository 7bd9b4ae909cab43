"""A training run: what it starts from, what it can learn, what it is validated on, and how it is built."""
