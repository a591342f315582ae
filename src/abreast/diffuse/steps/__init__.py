"""Many steps at once: the window slides over the sampler's own trajectory."""
