"""Run folders: the only source of an experiment's results; files are written whole, and nothing is unpickled."""
