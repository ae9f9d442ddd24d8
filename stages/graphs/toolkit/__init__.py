"""What built-in graphs are made of: prompts, questions to a model, tools, the finished stage."""
