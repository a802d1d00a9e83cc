"""Audit: the robust accuracy of a classifier, and checks of whether it can be trusted.

The diagnostics (one file each in `checks/`, found by `diagnose`) follow Carlini et al. 2019 (arXiv 1902.06705), Tramer et al.
2020 (arXiv 2002.08347), Croce et al. 2022 (arXiv 2202.13711), Pintor et al. 2022 (arXiv 2106.09947) and the checks of
fra31/auto-attack. Thresholds are our own choice unless the docstring of the check names a source.
"""
