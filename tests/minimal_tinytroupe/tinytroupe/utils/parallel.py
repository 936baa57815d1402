"""Work for several objects at once."""

from concurrent.futures import ThreadPoolExecutor


def parallel_map(objects, operation, max_workers=None):
    """One result for each object, in their order."""
    with ThreadPoolExecutor(max_workers=max_workers) as executor:
        return list(executor.map(operation, objects))
