"""Photos to predict on: which there are, and the lines that are written about them."""
