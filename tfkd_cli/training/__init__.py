"""How a run is trained: the epoch loop, its numerics, its teacher, and what an attempt leaves behind."""
