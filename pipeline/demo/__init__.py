"""The bundled example: a week of support tickets, and the spec that triages them offline."""
