"""One stage a file: its settings, pure functions on arrays, a thin task."""
