"""Applied nets: what feeds residuals into the host sampler's UNet."""
