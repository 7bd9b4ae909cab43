"""A label run: teachers are asked, their answers become the shards of columns."""
