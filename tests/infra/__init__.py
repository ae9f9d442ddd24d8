"""The files of `infra/`: checked by tools that know their schemas, and tried with a real Prometheus."""
