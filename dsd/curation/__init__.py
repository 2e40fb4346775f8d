"""Curation: select the pairs that truly show one subject, and export them as a dataset."""
