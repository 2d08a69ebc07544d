"""The speed benchmark: tfkd beside the loop the field writes, alternating in one run. `make bench`."""
