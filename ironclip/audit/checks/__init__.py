"""The diagnostics, one file each: a file that sets CHECK is found by `diagnose`; nothing else to register."""
