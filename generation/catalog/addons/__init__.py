"""What an operator adds to models: LoRAs, textual inversions, and another autoencoder."""
