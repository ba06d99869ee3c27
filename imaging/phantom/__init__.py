"""Phantom prostate exams with known truth: findings, report, images."""
