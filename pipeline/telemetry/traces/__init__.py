"""Traces of runs, in OpenTelemetry's form, for those who set its variables.

    run ─ activity (plan, finalise, …)
      └ partition ─ activity (open, publish, …)
          └ batch ─ activity (each attempt)
              └ row ─ stage ─ node ─ chat, embeddings, execute_tool, repair ─ chat

Spans of processes find each other without a message: the identity of a span is derived from what it is about
(`place`), so attempts of one batch, the processes of a command and resumed runs write to one trace.
"""
