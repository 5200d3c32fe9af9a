"""How well a checkpoint sees simulated rooms that it was not trained on, through the whole protocol and engine."""
