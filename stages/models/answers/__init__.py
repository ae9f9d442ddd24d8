"""Answers as data: how they are asked for, read out of what a server sends, and mended where that is sure."""
