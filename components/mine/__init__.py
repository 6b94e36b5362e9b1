"""The mine component."""
