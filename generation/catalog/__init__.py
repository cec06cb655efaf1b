"""What a model's files say, read with bounds before anything is built from them."""
