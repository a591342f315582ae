"""Videos longer than what is sampled at once: blocks of frames at staggered noise levels."""
