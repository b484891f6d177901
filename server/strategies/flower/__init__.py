"""Strategies of Flower's two interfaces at work in the rounds of this project.

``--strategy package.module:Class`` is found and made by :mod:`.load`. :mod:`.legacy` and
:mod:`.records` give it the hospitals' parameters as Flower would, and :mod:`.adapted` checks what
it returns. :mod:`.remembered` keeps its attributes with the checkpoint.
"""
