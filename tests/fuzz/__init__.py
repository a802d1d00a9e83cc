"""Random command lines and damaged images: `python -m fuzz`."""
