"""A simulated world around the product: years of it in virtual time, with oracles that know the truth."""
