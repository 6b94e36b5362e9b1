"""What other tools watch: gauges for Prometheus, and each cycle's snapshot for Evidently."""
