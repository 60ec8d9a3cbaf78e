"""From a file to batches: tasks, reading, encoding."""
