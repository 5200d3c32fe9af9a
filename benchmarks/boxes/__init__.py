"""How well 3D boxes fit what is really there, by how noisy a model's answers are."""
