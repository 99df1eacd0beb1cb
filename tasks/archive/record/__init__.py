"""Records beside code and results: attributes, versions, environment, signatures."""
