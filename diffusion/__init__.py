"""Noise, schedules, samplers and guidance: arithmetic on tensors that knows no image and no file."""
