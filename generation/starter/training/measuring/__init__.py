"""How good a starter model is: what is measured and how."""
