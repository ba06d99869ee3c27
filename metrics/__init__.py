"""Numbers from arrays: what an image shows, and how far it is from another."""
