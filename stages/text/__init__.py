"""Text on its way to a model: templates, quotation, pieces of bounded size, search."""
