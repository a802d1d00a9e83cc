"""Every tower class of open_clip at a size that tests can afford, against every method: `python -m towers` fills the table."""
