"""Behaviour policies of the hand: how well they do, and how the trained ones are made."""
