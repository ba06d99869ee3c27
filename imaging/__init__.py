"""Volumes and tiles: geometry, files, exam layouts, intensity maps, previews. Imports no other room."""
