"""The bundled example: a week of support tickets, and a spec that sorts them offline."""
