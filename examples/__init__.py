"""Applications that show fastobs at work."""
