"""Bad days and hostile input in numbers: `python -m drills`; bounded versions run as tests."""
