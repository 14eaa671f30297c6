"""What fastobs promises, as tests."""
