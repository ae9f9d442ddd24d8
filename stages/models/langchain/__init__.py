"""Models in LangChain's class, for graphs of users: those of ours, and those that a graph makes by itself."""
