"""Scores on subjects that nobody trained on."""
