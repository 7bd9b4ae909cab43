"""A pipeline before and between its stages: what will be there, what must be repeated, what is set aside."""
