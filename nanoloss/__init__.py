"""What the scripts share. Nothing in here imports a script."""
