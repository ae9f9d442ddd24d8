"""What a stage says of its model: which one, its parameters, its tier; checked before anything is asked."""
