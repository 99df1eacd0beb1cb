"""What is written down beside code and results: attributes, versions, environment, signatures."""
