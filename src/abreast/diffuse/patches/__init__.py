"""One picture on several devices: each rank runs the network on a strip of it.

`engine.sample` runs any `Plan`: who waits for whom, and who sees what of the others' strips at every place of the
network that mixes rows (`sites.py`, `strip.py`, `exchange.py`). A method is a plan with its paper's names.
"""
