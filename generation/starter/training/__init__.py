"""How the starter model is made: pictures, scenes and captions, the networks, their training."""
