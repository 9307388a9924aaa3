"""Dialogues for tuning."""
