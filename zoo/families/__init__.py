"""One folder per family of models. Families never import each other."""
