"""What the daemon does from time to time, one module each."""
