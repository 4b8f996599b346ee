"""Stage 4: a match becomes a plan, and a plan becomes weights.

methods      one choice for every stage
rules        which tensors of two matched layers go together, and how each comes to its new shape
planning     the whole of a plan
prepare      a source tensor in the form in which it is placed
operators    how it is placed
narrowing    which units are kept where there are fewer
parametrized weights that are computed from other tensors
following, passages   what is written last, from what was written before
initialise   a target on the meta device gets memory and values
apply        the whole: checked first, then written
"""
