"""Weights of others: their files, the names that they have there, and here."""
