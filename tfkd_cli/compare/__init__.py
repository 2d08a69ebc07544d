"""`tfkd compare`: one student on data of your own, with every method: trials, seeds, and one answer."""
