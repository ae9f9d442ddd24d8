"""Text for a model: templates, quotation, pieces of bounded size, search."""
