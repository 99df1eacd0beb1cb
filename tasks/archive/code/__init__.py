"""Functions as data: captured with what they reach, shown to a reader, brought back to life."""
