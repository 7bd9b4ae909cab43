"""From a config to opened and checked data: image sets with their label columns, tasks, memory."""
