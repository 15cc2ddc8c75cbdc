"""Training experiments, one recipe per file: `python -m train PRESET`."""
