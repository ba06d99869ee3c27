"""Training of the autoencoder, the text encoder and the denoiser: one loop, one dataset builder."""
