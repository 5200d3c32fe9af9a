"""How far what was perceived is from the truth; docs/metrics.md has every definition with its source."""
