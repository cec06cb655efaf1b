"""The bundled starter model: its files, and the programs that train and measure it."""
