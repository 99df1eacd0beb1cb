"""Values, tables and arrays as bytes, and back: for artifacts, archive and persistence alike."""
