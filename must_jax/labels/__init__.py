"""The label store: columns of labels beside an image set, with their provenance."""
