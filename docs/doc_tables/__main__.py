"""Writes the tables of the READMEs and of the weights' card anew."""

from doc_tables import WHOLE, renewed

for page in WHOLE:
    page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
