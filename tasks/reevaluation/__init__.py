"""Archived trials again: run in a fresh process, compared, and explained where they differ."""
