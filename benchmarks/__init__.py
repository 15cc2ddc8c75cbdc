"""Timings side by side with peers, as ratios measured in one run; not part of the tests."""
