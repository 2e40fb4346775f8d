"""Grids: writing prompts, drawing grids with the teacher, and cutting them into panels."""
