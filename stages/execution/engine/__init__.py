"""Rows whose graphs LangGraph's engine runs. Imported with the first of them: it is half a second and 40 MB."""
