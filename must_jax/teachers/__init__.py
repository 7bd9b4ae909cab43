"""Teachers of any origin: one protocol (`base.Teacher`), an adapter for each origin, and `loading` that chooses one."""
