"""Parts of the fault drill: random kills, the comparison with an undisturbed study, the report."""
