"""Measure, record and replay: machine, jobs, sections, recordings, a reader's kernel."""
