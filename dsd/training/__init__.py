"""Training of the student, with exact resume."""
