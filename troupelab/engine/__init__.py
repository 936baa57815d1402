"""When agents act: the schedule, and the engine that keeps to it."""
