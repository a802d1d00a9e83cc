"""Grids: many runs from one file, planned, carried out by any number of workers, resumable at any point."""
