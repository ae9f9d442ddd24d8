"""The part of a prompt that all rows share: where it ends, and who asks first, so that it is written once."""
