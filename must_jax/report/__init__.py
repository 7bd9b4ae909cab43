"""Tables and pictures of runs. Everything shown is handed in as plain values; nothing here knows a task by name."""
