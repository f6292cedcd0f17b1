"""The order of work: Prefect flows over tasks, and the command line."""
