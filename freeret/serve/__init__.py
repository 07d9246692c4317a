"""A local HTTP server over one store: `freeret serve STORE`."""
