"""Attacks on images: small changes that turn an answer wrong.

Each is a pure function that compiles as a whole:

    attack(logits_of, images, labels, *, eps, norm, keys, ...) -> images

`logits_of` maps pixels (n h w c) in 0..1, before any normalisation, to logits (n k),
with batch norms at their running statistics. `eps` is the largest change in the same
unit (4/255, say), of a pixel (`norm="linf"`) or of an image as a vector ("l2"). `keys`
(n,) has one random key an image, see `balls.keys_of`: what is found for an image then
does not depend on its batch. Images come back in 0..1, within the budget.

    fgsm, pgd      steps along the gradient                      pgd.py
    apgd           steps whose size needs no tuning              apgd.py
    square         answers alone, no gradient                    square.py
    standard       the worst of APGD on two losses and Square    registry.py
    by name        settings.py, registry.py; batches of any number of images: run.py
"""
