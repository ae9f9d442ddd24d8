"""Model calls: from `provider:name` to a chat model whose calls are journalled, limited and paid for once."""
