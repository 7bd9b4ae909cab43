"""The scorecard: transfer of representations to downstream sets."""
