"""Run folders: the truth about every experiment, written whole and never unpickled."""
