"""What repeated data is worth: R_D and R_N fitted with the surface, or why they are not known."""
