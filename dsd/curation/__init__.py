"""Curation: which pairs truly show one subject, and the dataset that they become."""
