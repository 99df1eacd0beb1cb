"""Studies with their archives on the move: copied, as one file, in a deployment, and removed."""
