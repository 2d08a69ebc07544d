"""The commands of `tfkd`, a module for each family; `cli.py` puts them together."""
