"""What agents remember: records in a bounded recent tier, and the notes that consolidation makes of older ones."""
