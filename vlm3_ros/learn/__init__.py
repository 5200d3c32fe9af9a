"""Fine-tuning with the VLM³ recipe: one form of training data for all tasks, and plain text as what is learned."""
