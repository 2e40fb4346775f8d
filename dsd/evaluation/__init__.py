"""Evaluation on subjects that were not in the training data."""
