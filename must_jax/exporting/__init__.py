"""From a trained model to files that other libraries and runtimes open, with proof that they give the same numbers."""
