"""The names of the rows of a comparison that are not checkpoints."""

TEACHER, TRUTH, COPY, CHANCE = "teacher, prompted", "truth (ceiling)", "copy of the reference", "chance"
