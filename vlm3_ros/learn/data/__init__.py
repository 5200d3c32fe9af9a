"""Training data: images, and everything that is asked about them, in one form for all tasks."""
