"""What is encrypted: vectors of integers, added by someone who cannot read them."""
