"""Settings → runs; results → measured values; `explain`."""
