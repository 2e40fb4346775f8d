"""The pocket family's drawn world: critters, contexts, words, images, and their scorer."""
