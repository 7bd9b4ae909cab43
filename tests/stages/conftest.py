from idle_stages import digests, ran, second

__all__ = ["digests", "ran", "second"]
