"""Why a network answers what it answers: maps of the places that an answer rests on.

`how` says which method and how much of it, free of JAX; `explainer` runs any of them
under one signature; `faithfulness` measures what a map is worth.
"""
