"""Backbone, pyramid and heads. Nothing here knows a dataset or a task by name."""
