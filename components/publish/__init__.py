"""The publish component."""
