"""SLURM: submitit submits, the store and one `squeue` know."""
