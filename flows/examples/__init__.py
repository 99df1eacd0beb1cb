"""Problems to run and to copy, with their data."""
