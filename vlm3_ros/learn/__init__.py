"""Fine-tuning with the VLM³ recipe: plain text is what is learned. What from: `learn.data`."""
