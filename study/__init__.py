"""Studies: many trainings under one plan, and what they show together."""
