"""Tables and pictures of runs. Everything shown is passed in as plain values; nothing here knows a task by name."""
