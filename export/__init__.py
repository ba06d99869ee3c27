"""The runtimes that execute a model's parts."""
