"""Random command lines and damaged pictures: `python -m fuzz`."""
