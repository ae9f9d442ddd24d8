"""Parts of built-in graphs: prompts, questions to a model, tools, the finished stage."""
