"""Everything that crosses Temporal: references and counts, never rows, prompts or secrets. One input and one result
object for each workflow and activity, so that fields can be added without breaking histories."""
