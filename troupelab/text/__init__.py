"""What texts mean to a machine: vectors, sameness, and the sentences that carry the most.

Pure functions and objects that keep nothing but bounded caches; any thread may call them.
"""
