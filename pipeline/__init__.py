"""The stages encode, sample and decode as plain functions over records, and the run folder they write."""
