"""The checker that jaxtyping's import hook puts on every function of mixlm: beartype, where an int is a float too."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
