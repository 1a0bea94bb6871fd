"""What the demo model is taught, one skill a file: each draws a random question with its answer."""
