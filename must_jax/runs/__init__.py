"""What lies on disk of a run: its workdir, its results, its curves."""
