"""One rank's engine, without Ray: schedule, run, sample, commit."""
