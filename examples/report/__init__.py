"""Reads what ``/metrics`` and the slow-request log say, and turns it into tables."""
