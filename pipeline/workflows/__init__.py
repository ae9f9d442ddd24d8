"""The durable part: run and partition workflows. Only stdlib, temporalio, schemas and pure helpers here."""
