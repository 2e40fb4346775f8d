"""What the rows of a comparison are called, besides the checkpoints."""

TEACHER, TRUTH, COPY, CHANCE = "teacher, prompted", "truth (ceiling)", "copy of the reference", "chance"
