"""One module a system: which of its records become which of our rows, and back, one line a field."""
