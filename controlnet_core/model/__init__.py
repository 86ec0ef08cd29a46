"""The model: layers, attention, blocks, encoder, UNet, hint encoder, ControlNet, autoencoder, text encoder."""
