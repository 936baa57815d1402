"""What it costs: one module for each benchmark, all of which speak one language."""
