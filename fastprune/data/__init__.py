"""Data: tasks, reading of data sets, encoding into batches."""
