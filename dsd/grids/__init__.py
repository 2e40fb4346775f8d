"""Grids: prompts, the teacher that draws them, and cutting them into panels."""
