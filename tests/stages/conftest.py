from idle_stages import digests, ran, second
from label_runs import photos, teachers

__all__ = ["digests", "photos", "ran", "second", "teachers"]
