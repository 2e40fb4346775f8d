"""Training the student, and continuing exactly where it stopped."""
