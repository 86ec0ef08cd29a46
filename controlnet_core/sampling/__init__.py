"""Drawing images: guidance, samplers and the one call that joins them."""
