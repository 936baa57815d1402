"""What we saw: the recorder that keeps events in columns, and the frames that show them as pandas."""
