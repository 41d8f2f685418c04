"""Fair comparisons (races) of search strategies on tables of evaluations."""
