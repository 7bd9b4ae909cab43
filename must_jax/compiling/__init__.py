"""The programs of a stage, compiled ahead of time: what they need, and how fast they can be."""
