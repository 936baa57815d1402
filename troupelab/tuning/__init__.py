"""Which limits to choose: replay, sweep, compare."""
