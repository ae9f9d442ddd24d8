"""Provider batch jobs: requests that were parked become jobs, each submitted once, whose answers become records of
journals. Knows no graph and no Temporal.

    form_jobs    parked files     → lists of requests, packed up to the provider's limits; equal requests once
    split        a job that does not fit its budget → one that does, and the rest
    submit       such a list      → one job at the provider, whatever is interrupted and by whom it is tried again
    poll         a submitted job  → how far it is
    collect      a job that ended → records in the journal of every partition that parked one of its requests, and what
                                    was not answered, given back for another job; its files there are deleted

All state is in `<sink>/_tandem/runs/<run>/jobs/<pool>/`, so each function may be called again, by anybody.
"""
