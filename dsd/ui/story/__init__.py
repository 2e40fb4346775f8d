"""The Story tab."""
