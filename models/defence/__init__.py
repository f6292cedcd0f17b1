"""What may be put before a network, or beside it, against images made to fool it.

All of it takes pixels float32 (n h w c) in 0..1 and can be differentiated, so that an
attack may go through it: a defence is worth what it holds against such an attack.
"""
