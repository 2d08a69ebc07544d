"""The SLURM backend: submitit submits, states are read from the store and one call of squeue."""
