"""The report of any runs: what they have left, and pictures of what their models say."""
