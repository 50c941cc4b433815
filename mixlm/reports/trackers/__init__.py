"""Trackers: where a run's figures go beside metrics.jsonl."""
