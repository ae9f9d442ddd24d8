"""The journal of paid answers: records, the segments that store them, and what is known from them."""
