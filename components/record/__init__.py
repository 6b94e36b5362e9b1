"""The record component."""
